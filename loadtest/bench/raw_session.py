"""The limit that servers are judged against: decode, resize and run on one thread, no server.

    python -m loadtest.bench.raw_session MODELS NAME IMAGE

Prints one JSON object: rows/s of the session at several batch sizes, microseconds of one decode
with its resize, and the limit, 1 / (decode + run of a row at the best batch size), in images/s.
"""

import json
import sys
from functools import partial
from pathlib import Path

import onnxruntime

from loadtest.bench.timing import per_s, random_images
from models.image import decode_sized, decoding_of, read_size
from models.repository import ModelRepository

_BATCH_SIZES = (1, 8, 32, 64)
# Of rows that have more values than this: a batch of 64 would take seconds.
_LARGE_ROW = 1 << 15
_LARGE_BATCH_SIZES = (1, 2, 4, 8, 16)
_SECONDS = 1.0


def measure(models: Path, name: str, image: Path) -> dict[str, float]:
    """Measure one model and one encoded image.

    Returns:
        ``rows_per_s_<batch size>``, ``decode_us``, ``limit_per_s``; ``is_resized``, 1 if the image
        is of another size than the model.
    """
    repository = ModelRepository(models)
    artifact = repository.load(*repository.resolve(name))
    spec = artifact.image
    path = repository.path(artifact.name, artifact.version) / artifact.fp32.path
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    encoded = image.read_bytes()
    figures: dict[str, float] = {}
    is_large = spec.height * spec.width * spec.channels > _LARGE_ROW
    for size in _LARGE_BATCH_SIZES if is_large else _BATCH_SIZES:
        batch = random_images(size, spec.shape_HWC)
        runs = per_s([partial(session.run, None, {session.get_inputs()[0].name: batch})], _SECONDS)
        figures[f"rows_per_s_{size}"] = round(runs * size, 1)
    decodes = per_s([partial(decode_sized, encoded, spec, decoding_of(spec))], _SECONDS)
    best = max(figures.values())
    figures["decode_us"] = round(1e6 / decodes, 2)
    figures["limit_per_s"] = round(1 / (1 / decodes + 1 / best), 1)
    figures["is_resized"] = float(read_size(encoded) != (spec.width, spec.height))
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
