"""A plain scoring script for comparison: Pillow, batches of 64, one thread, a CSV.

    python loadtest/bench/plain_score.py MODEL.onnx TABLE.parquet OUT.csv

Prints one JSON object: rows and seconds, without imports and loading.
"""

import csv
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet
from PIL import Image

_BATCH_ROWS = 64


def main(onnx: Path, table: Path, out: Path) -> dict[str, float]:
    """Score the column ``image`` of a table, structs with ``bytes``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    _, height, width, channels = session.get_inputs()[0].shape
    mode = "L" if channels == 1 else "RGB"
    started = time.perf_counter()
    rows = 0
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "index", "probability"])
        for batch in pyarrow.parquet.ParquetFile(table).iter_batches(_BATCH_ROWS):
            images = []
            for cell in batch.column("image").to_pylist():
                image = Image.open(io.BytesIO(cell["bytes"])).convert(mode)
                if image.size != (width, height):
                    image = image.resize((width, height))
                images.append(np.asarray(image).reshape(height, width, channels))
            (probabilities_NK,) = session.run(["probabilities"], {"images": np.stack(images)})
            for probabilities_K in probabilities_NK:
                best = int(probabilities_K.argmax())
                writer.writerow([rows, best, float(probabilities_K[best])])
                rows += 1
    return {"rows": rows, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:4]))))
