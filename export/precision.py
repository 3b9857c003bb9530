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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.errors import ExportError, GateError
from export.figures import right_rows
from models.artifact import Precision
from models.evidence import Gate
from models.labels import are_given
from models.machine import multiplies_whole

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


def lower_precisions(words: str) -> tuple[Precision, ...]:
    """Read ``fp32,int8``: the precisions that are written beside fp32.

    Raises:
        ExportError: One does not exist.
    """
    names = [word.strip() for word in words.split(",")]
    unknown = sorted(set(names) - set(PRECISIONS))
    if unknown:
        raise ExportError(
            f"precision: expected {', '.join(PRECISIONS)}, got {unknown[0] or 'none'}"
        )
    return tuple(p for p in PRECISIONS if p in names and p != "fp32")


def convert(
    model: onnx.ModelProto, precision: Precision, train_NHWC: NDArray[np.uint8]
) -> onnx.ModelProto:
    """Convert the body of an fp32 graph of the contract.

    Args:
        model: The fp32 graph, sorted. Not modified.
        precision: ``int8`` or ``fp16``.
        train_NHWC: uint8 [N, H, W, C], the training split: gives the ranges of int8 activations.

    Raises:
        ExportError: The graph has only one layer, or operators that cannot be converted.
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
    try:
        return _to_int8(model, body, train_NHWC) if precision == "int8" else _to_fp16(model, body)
    except Exception as error:  # onnx's and onnxruntime's have no common base
        said = " ".join(str(error).split())[:200]
        raise ExportError(
            f"precision {precision}: expected a graph that can be converted, got {said}; "
            f"leave {precision} out"
        ) from error


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


@dataclass(frozen=True, slots=True)
class GateTerms:
    """How a graph of lower precision is compared.

    Attributes:
        split: Name of the images.
        max_accuracy_drop: Accuracy that it may lose, as a share.
        thresholds: Of a multi-label model: least probability of each label.
    """

    split: str
    max_accuracy_drop: float
    thresholds: tuple[float, ...] = ()


def compare_gate(
    expected_NK: NDArray[np.float32],
    got_NK: NDArray[np.float32],
    targets_N: NDArray[np.int64] | None,
    golden_GK: NDArray[np.float32],
    terms: GateTerms,
) -> Gate:
    """Compare the answers of a graph of lower precision with the fp32 graph's.

    Args:
        expected_NK: float32 [N, K], probabilities that the fp32 graph gives.
        got_NK: The same of the graph of lower precision.
        targets_N: int64 [N]; None: unknown, so only labels are compared.
        golden_GK: Its answers to the golden images.
        terms: How they are compared; ``check_gate`` does it.
    """
    thresholds = terms.thresholds
    accuracy = before = None
    if targets_N is not None:
        accuracy = float(right_rows(got_NK, targets_N, thresholds).mean())
        before = float(right_rows(expected_NK, targets_N, thresholds).mean())
    is_same_N = got_NK.argmax(axis=1) == expected_NK.argmax(axis=1)
    if thresholds:
        is_same_NK = are_given(got_NK, thresholds) == are_given(expected_NK, thresholds)
        is_same_N = is_same_NK.all(axis=1)
    return Gate(
        split=terms.split,
        images=len(got_NK),
        accuracy=accuracy,
        accuracy_drop=None if accuracy is None or before is None else before - accuracy,
        max_accuracy_drop=terms.max_accuracy_drop,
        label_agreement=float(is_same_N.mean()),
        min_label_agreement=MIN_LABEL_AGREEMENT,
        max_probability_difference=float(np.abs(got_NK - expected_NK).max()),
        golden=tuple(map(tuple, golden_GK.tolist())),
    )


def check_gate(gate: Gate, what: str, whose: str = "fp32's") -> None:
    """Compare what a faster way of answering lost with what it may lose.

    Args:
        gate: What was measured.
        what: The faster way, as a precision.
        whose: Answers that it was compared with.

    Raises:
        GateError: It lost more.
    """
    drop = gate.accuracy_drop
    # Written so that NaN, which compares as false, is refused too.
    if not (
        (drop is None or drop <= gate.max_accuracy_drop)
        and gate.label_agreement >= gate.min_label_agreement
        and np.isfinite(gate.max_probability_difference)
    ):
        most = got = more = ""
        if drop is not None and gate.accuracy is not None:
            most = f"accuracy to fall by at most {gate.max_accuracy_drop * 100:.2f} points and "
            got = f"{drop * 100:.2f} points to {gate.accuracy:.2%} and "
            more = ", or allow more with --max-accuracy-drop"
        raise GateError(
            f"{what} on {gate.images} {gate.split} images: expected {most}"
            f"{gate.min_label_agreement:.2%} of {whose} labels, got {got}"
            f"{gate.label_agreement:.2%}; not published: leave {what} out{more}"
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
    on VNNI's own instruction, int8 ones and uint8 weights do not. On a CPU without it the weights
    have 7 bits, as its sums would be cut off.
    """
    with _quiet_quantizer(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Images(train_NHWC),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not multiplies_whole(),
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
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    body = {n.name for n in graph.node if n.name in body and _gives_half(n, floats, opsets)}
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
            is_half = node.name in body and _allows_half(node, opsets, place)
            if is_half and name in weights:
                half = f"{name}_fp16"
                if half not in made:
                    made.add(half)
                    value = numpy_helper.to_array(weights[name]).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(value, half))
                node.input[place] = half
            elif is_half and name not in inside:
                node.input[place] = cast(name, TensorProto.FLOAT16, "_fp16")
            elif not is_half and name in inside:
                node.input[place] = cast(name, TensorProto.FLOAT, "_fp32")
        if node.op_type == "Cast" and node.name in body and node.output[0] in floats:
            next(a for a in node.attribute if a.name == "to").i = TensorProto.FLOAT16
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


def _gives_half(node: onnx.NodeProto, floats: set[str], opsets: dict[str, int]) -> bool:
    """Return whether a node computes in float16 once its inputs are; else it stays in float32.

    What makes floats of none, such as ConstantOfShape, gives the type that it names.
    """
    outputs = [place for place, name in enumerate(node.output) if name in floats]
    if not outputs or node.op_type == "Cast":
        return True
    if not floats & set(node.input):
        return False
    return all(_allows_half(node, opsets, place, of_output=True) for place in outputs)


def _allows_half(
    node: onnx.NodeProto, opsets: dict[str, int], place: int, *, of_output: bool = False
) -> bool:
    """Return whether an operator's schema allows float16 at a place; Resize's scales may not be."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:  # an operator of another domain: the checker has the last word
        return True
    formal = schema.outputs if of_output else schema.inputs
    return "tensor(float16)" in formal[min(place, len(formal) - 1)].types


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
