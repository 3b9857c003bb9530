"""Turn a fitted network into the ONNX graph of the contract, with torch's exporter.

Input ``images`` UINT8 [-1, H, W, C]; outputs ``logits`` and ``probabilities`` FP32 [-1, K], and
``embedding`` FP32 [-1, D] if asked.
Scaling, layout and temperature are nodes of the graph. ``publish`` hands it to ``export``.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.proof import Answers
from training.layers import ImageShape
from training.networks import ImageNetwork

# The newest opset that torch 2.13's exporter writes without a conversion; onnxruntime runs it since
# 1.14 (2023).
OPSET = 18


class ServedNetwork(nn.Module):
    """A network as it is served: images in, logits and calibrated probabilities out.

    Args:
        network: The fitted network.
        temperature: Divides the logits before the softmax, > 0.
        has_embedding: Whether the input of the last layer comes out, too.
    """

    temperature: Tensor

    def __init__(self, network: ImageNetwork, temperature: float, *, has_embedding: bool = False):
        super().__init__()
        self.network = network
        self.has_embedding = has_embedding
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images: uint8 [N, H, W, C], 0-255.

        Returns:
            logits_NK and probabilities_NK: float32 [N, K]; the probabilities sum to 1. Then the
            embeddings, float32 [N, D], if asked.
        """
        if not self.has_embedding:
            return self._answer(self.network(images))
        embeddings_ND = self.network.embed(images)
        return *self._answer(self.network.classify(embeddings_ND)), embeddings_ND

    def answer(self, images_NHWC: NDArray[np.uint8]) -> Answers:
        """Compute both answers for arrays, in evaluation mode: the proof's reference."""
        with torch.inference_mode():
            logits_NK, probabilities_NK = self.eval()(torch.from_numpy(images_NHWC))[:2]
        return logits_NK.numpy(), probabilities_NK.numpy()

    def embed(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute embeddings for arrays, in evaluation mode: the proof's reference."""
        with torch.inference_mode():
            embeddings_ND = self.eval().network.embed(torch.from_numpy(images_NHWC))
        return np.asarray(embeddings_ND.numpy(), np.float32)

    def _answer(self, logits_NK: Tensor) -> tuple[Tensor, Tensor]:
        return logits_NK, torch.softmax(logits_NK / self.temperature, dim=1)


def export_onnx(network: ServedNetwork, image_shape: ImageShape) -> onnx.ModelProto:
    """Export with torch's dynamo exporter, with a free batch size.

    Args:
        network: Put into evaluation mode.
        image_shape: H, W, C of the images.

    Returns:
        The model, checked by onnx, without metadata and without traces of this machine.
    """
    # Two rows: torch would treat a batch of one as a constant.
    example = torch.zeros((2, *image_shape), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits", "probabilities", "embedding"][: 2 + network.has_embedding],
            dynamic_shapes={"images": {0: torch.export.Dim("rows", min=1)}},
            verbose=False,
        )
    assert program is not None, "the dynamo exporter always returns a program; this is a bug"
    model = program.model_proto
    _forget_machine(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _forget_machine(model: onnx.ModelProto) -> None:
    """Drop the stack traces and source paths that the exporter leaves on every node."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's progress output and its warnings about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
