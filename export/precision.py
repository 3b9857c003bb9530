"""Convert an fp32 graph to int8 or fp16, and check the result against its gate.

Only the body of the network is converted: from its first layer up to the last one, which stays in
fp32 with the scaling before and the softmax after. Both outputs keep all their digits, and the
contract's tensors do not change. Legend: N rows, H height, W width, C channels, K classes,
G golden images.
"""

import copy
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.errors import ExportError, GateError
from export.proof import run_batches
from export.run import open_session, run_images
from models.artifact import Precision
from models.evidence import Gate

# Precisions that ``foveal export`` can write; fp32 is always written.
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16")

# Images that the ranges of the activations are taken from: a sample of the training split. The
# quantizer never sees the test split, which the gate reads.
CALIBRATION_IMAGES = 1024
_CALIBRATION_ROWS = 64
# Limits of the gate, as shares: accuracy that may be lost (0.005 is half a point), and images that
# must keep the fp32 graph's label. Product choices; --max-accuracy-drop changes the first.
MAX_ACCURACY_DROP = 0.005
MIN_LABEL_AGREEMENT = 0.98
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


def convert(
    model: onnx.ModelProto, precision: Precision, train_NHWC: NDArray[np.uint8]
) -> onnx.ModelProto:
    """Convert the body of an fp32 graph of the contract.

    Args:
        model: The fp32 graph, sorted. Not modified.
        precision: ``int8`` or ``fp16``.
        train_NHWC: uint8 [N, H, W, C], the training split: gives the ranges of int8 activations.

    Raises:
        ExportError: The graph has only one layer.
    """
    model = copy.deepcopy(model)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    body = find_body(model.graph)
    if not body:
        raise ExportError(
            f"precision {precision}: expected a layer before the last one, got none; "
            "this network is served in fp32"
        )
    return _to_int8(model, body, train_NHWC) if precision == "int8" else _to_fp16(model, body)


def find_body(graph: onnx.GraphProto) -> set[str]:
    """Find the nodes to convert: from the first layer on, before the last layer.

    Args:
        graph: Sorted, every node with a name.

    Returns:
        Names of nodes.
    """
    after_layer: set[str] = set()  # tensors that depend on a layer
    candidates: set[str] = set()
    for node in graph.node:
        if node.op_type in _LAYERS or after_layer & set(node.input):
            after_layer |= set(node.output)
            candidates.add(node.name)
    tail: set[str] = set()
    wanted = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if wanted & set(node.output):
            tail.add(node.name)
            if node.op_type not in _LAYERS:
                wanted |= set(node.input)
    return candidates - tail


def measure_gate(
    expected_NK: NDArray[np.float32],
    content: bytes,
    images_NHWC: NDArray[np.uint8],
    targets_N: NDArray[np.int64],
    golden_NHWC: NDArray[np.uint8],
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
) -> Gate:
    """Compare a graph of lower precision with the fp32 graph on the test split.

    Args:
        expected_NK: float32 [N, K], probabilities that the fp32 graph gives.
        content: The graph of lower precision.
        images_NHWC: uint8 [N, H, W, C] that neither training nor calibration has seen.
        targets_N: int64 [N].
        golden_NHWC: uint8 [G, H, W, C], the golden images as a load decodes them.
        max_accuracy_drop: Share that it may lose; ``check_gate`` compares.
    """
    session = open_session(content)
    _, got_NK = run_images(session, images_NHWC)
    _, golden_GK = run_batches(session.run, golden_NHWC, 1)
    labels_N, expected_N = got_NK.argmax(axis=1), expected_NK.argmax(axis=1)
    accuracy = float((labels_N == targets_N).mean())
    return Gate(
        split="test",
        images=len(targets_N),
        accuracy=accuracy,
        accuracy_drop=float((expected_N == targets_N).mean()) - accuracy,
        max_accuracy_drop=max_accuracy_drop,
        label_agreement=float((labels_N == expected_N).mean()),
        min_label_agreement=MIN_LABEL_AGREEMENT,
        max_probability_difference=float(np.abs(got_NK - expected_NK).max()),
        golden=tuple(map(tuple, golden_GK.tolist())),
    )


def check_gate(gate: Gate, precision: Precision) -> None:
    """Compare what a graph of lower precision lost with what it may lose.

    Raises:
        GateError: It lost more.
    """
    # Written so that NaN, which compares as false, is refused too.
    if not (
        gate.accuracy_drop <= gate.max_accuracy_drop
        and gate.label_agreement >= gate.min_label_agreement
        and np.isfinite(gate.max_probability_difference)
    ):
        raise GateError(
            f"{precision} on {gate.images} {gate.split} images: expected accuracy to fall by at "
            f"most {gate.max_accuracy_drop * 100:.2f} points and {gate.min_label_agreement:.2%} "
            f"of fp32's labels, got {gate.accuracy_drop * 100:.2f} points to {gate.accuracy:.2%} "
            f"and {gate.label_agreement:.2%}; not published: leave {precision} out, "
            "or allow more with --max-accuracy-drop"
        )


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime's is untyped here
    """A sample of the training split in batches; the same sample each time."""

    def __init__(self, train_NHWC: NDArray[np.uint8]) -> None:
        chosen = np.random.default_rng(0).permutation(len(train_NHWC))[:CALIBRATION_IMAGES]
        self._images_NHWC = train_NHWC[np.sort(chosen)]
        self._start = 0

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, None at the end."""
        rows = self._images_NHWC[self._start : self._start + _CALIBRATION_ROWS]
        self._start += _CALIBRATION_ROWS
        return {"images": np.ascontiguousarray(rows)} if len(rows) else None


def _to_int8(
    model: onnx.ModelProto, body: set[str], train_NHWC: NDArray[np.uint8]
) -> onnx.ModelProto:
    """Quantize the body: static QDQ, weights int8 per channel, activations uint8.

    Measured on a CPU with AVX-512 VNNI, see training/LOG.md: uint8 activations run
    on VNNI's own instruction, int8 ones and uint8 weights do not.
    """
    with _quiet_quantizer(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Images(train_NHWC),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in body],
        )
        quantized = onnx.load(path)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _to_fp16(model: onnx.ModelProto, body: set[str]) -> onnx.ModelProto:
    """Compute the body in float16, with casts at its borders.

    Not ``convert_float_to_float16`` of onnxruntime: it also rounds the outputs of fp32 nodes to
    float16, which leaves probabilities three digits, and it leaves nodes unsorted.
    """
    graph = model.graph
    floats = _float_tensors(model)
    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    inside = {output for node in graph.node if node.name in body for output in node.output}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()

    def cast(name: str, to: int, suffix: str) -> str:
        if name + suffix not in made:
            made.add(name + suffix)
            nodes.append(helper.make_node("Cast", [name], [name + suffix], to=to))
        return name + suffix

    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if node.name in body and name in weights:
                half = f"{name}_fp16"
                if half not in made:
                    made.add(half)
                    value = numpy_helper.to_array(weights[name]).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(value, half))
                node.input[place] = half
            elif node.name in body and name not in inside:
                node.input[place] = cast(name, TensorProto.FLOAT16, "_fp16")
            elif node.name not in body and name in inside:
                node.input[place] = cast(name, TensorProto.FLOAT, "_fp32")
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # they still state fp32
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed: Sequence[onnx.ValueInfoProto] = (*graph.value_info, *graph.input, *graph.output)
    floats = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Silence the quantizer's advice to pre-process: the exporter has already folded constants."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
