"""The one model that every peer serves: the ONNX file PEER_ONNX, one thread, Pillow for decoding.

``rows(images)`` -> uint8 [N, *row shape]; ``labels(rows)`` -> N class indices. Runs in each peer's
own environment, as a script beside this file.
"""

import os

import numpy as np
import onnxruntime as ort
from PIL import Image

_options = ort.SessionOptions()
_options.intra_op_num_threads = 1
session = ort.InferenceSession(
    os.environ["PEER_ONNX"], _options, providers=["CPUExecutionProvider"]
)
row_shape = session.get_inputs()[0].shape[1:]
_input = session.get_inputs()[0].name
_outputs = [session.get_outputs()[0].name]


# Photographs: their shorter side before the crop; 0: images have the model's size.
_shorter = int(os.environ.get("PEER_RESIZE") or 0)


def pixels(image):
    """Bring a photograph to the model's size as tutorials do: resize, then the centre."""
    if not _shorter:
        return image
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (int(_shorter * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - row_shape[1]) / 2), round((height - row_shape[0]) / 2)
    return image.crop((left, top, left + row_shape[1], top + row_shape[0]))


def rows(images):
    """Stack decoded images to one batch."""
    return np.stack([np.asarray(image) for image in images]).reshape(-1, *row_shape)


def labels(batch):
    """Return the index of the largest logit of each row."""
    return session.run(_outputs, {_input: batch})[0].argmax(1).tolist()
