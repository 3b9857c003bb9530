"""Convert one graph of the contract to float16: python -m export.convert IN.onnx OUT.onnx.

For measurements: what is published goes through its gate in ``publish`` or ``adopt``.
"""

import sys
from pathlib import Path

import numpy as np
import onnx

from export.precision import convert


def main() -> None:
    """Convert the file that is named first into the one that is named second."""
    source, target = map(Path, sys.argv[1:])
    nothing = np.zeros((0, 1, 1, 1), np.uint8)  # float16 takes no ranges from images
    onnx.save(convert(onnx.load(source), "fp16", nothing), target)


if __name__ == "__main__":
    main()
