"""The limit that servers are judged against: decode and run on one thread, no server.

    python -m loadtest.bench.raw_session MODEL.onnx IMAGE

Prints one JSON object: rows/s of the session at several batch sizes, microseconds of one decode,
and the limit, 1 / (decode + run of a row at batch 64), in images/s.
"""

import json
import sys
from functools import partial
from pathlib import Path

import onnxruntime

from loadtest.bench.timing import per_s, random_images
from models.image import decode_pixels
from models.pixels import Decoding

_BATCH_SIZES = (1, 8, 32, 64)
_SECONDS = 1.0


def measure(onnx: Path, image: Path) -> dict[str, float]:
    """Measure one model and one encoded image.

    Returns:
        ``rows_per_s_<batch size>``, ``decode_us``, ``limit_per_s``.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    spec = session.get_inputs()[0]
    encoded = image.read_bytes()
    decoding = Decoding("L" if spec.shape[-1] == 1 else "RGB")
    figures: dict[str, float] = {}
    for size in _BATCH_SIZES:
        batch = random_images(size, tuple(spec.shape[1:]))
        runs = per_s([partial(session.run, None, {spec.name: batch})], _SECONDS)
        figures[f"rows_per_s_{size}"] = round(runs * size)
    decodes = per_s([partial(decode_pixels, encoded, decoding)], _SECONDS)
    figures["decode_us"] = round(1e6 / decodes, 2)
    figures["limit_per_s"] = round(1 / (1 / decodes + 1 / figures["rows_per_s_64"]))
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
