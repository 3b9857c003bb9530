import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.adopt import Request, adopt
from export.errors import AdoptError
from export.interface import find_input
from export.options import Options
from export.sandbox import Bounds, run_bounded
from export.scores import find_answer
from export.screen import screen
from models.repository import ModelRepository
from tests.export.foreign import CLASSES, LABELS, foreign_model

GIB = 1 << 30


def external() -> onnx.ModelProto:
    model = foreign_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


def custom_domain() -> onnx.ModelProto:
    model = foreign_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    model.graph.node[0].domain = "ai.onnx.contrib"
    return model


def batch_norm(**attributes: int) -> onnx.ModelProto:
    model = foreign_model()
    ones = numpy_helper.from_array(np.ones(CLASSES, np.float32), "ones")
    model.graph.initializer.append(ones)
    outputs = ["normal", "mean_of_batch", "variance"] if attributes else ["normal"]
    nodes = model.graph.node
    nodes[-1].input[0] = "normal"
    inputs = ["scores", "ones", "ones", "ones", "ones"]
    norm = helper.make_node(
        "BatchNormalization", inputs, outputs, None, None, None, None, **attributes
    )
    nodes.insert(len(nodes) - 1, norm)
    return model


def dropout(is_training: bool) -> onnx.ModelProto:
    model = foreign_model()
    for name, value in (("ratio", np.float32(0.5)), ("training", np.bool_(is_training))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    nodes = model.graph.node
    nodes[-1].input[0] = "dropped"
    drop = helper.make_node("Dropout", ["scores", "ratio", "training"], ["dropped"])
    nodes.insert(len(nodes) - 1, drop)
    return model


def dynamic() -> onnx.ModelProto:
    model = foreign_model()
    names = ["small", "step", "zero"]
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["scores"], names))
    return model


def circle() -> onnx.ModelProto:
    model = foreign_model()
    model.graph.node.append(helper.make_node("Add", ["b", "scores"], ["a"]))
    model.graph.node.append(helper.make_node("Add", ["a", "scores"], ["b"]))
    return model


def chosen(kind: str) -> onnx.ModelProto:
    """The scores are sorted, or only their winner is given; a cast follows."""
    model = foreign_model()
    nodes = model.graph.node
    del nodes[-1]
    if kind == "TopK":
        count = numpy_helper.from_array(np.array([CLASSES], np.int64), "count")
        model.graph.initializer.append(count)
        nodes.append(helper.make_node("TopK", ["scores", "count"], ["best", "indices"]))
    else:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1))
    nodes.append(helper.make_node("Cast", ["best"], ["answer"], to=TensorProto.FLOAT))
    return model


def undeclared_domain() -> onnx.ModelProto:
    model = foreign_model()
    model.graph.node[0].domain = "my.ops"
    return model


def control_flow(kind: str = "Loop", depth: int = 1) -> onnx.ModelProto:
    body = helper.make_graph([], "body", [], [])
    for _ in range(depth):
        node = helper.make_node(kind, ["n"], ["m"], body=body)
        body = helper.make_graph([node], "body", [], [])
    model = foreign_model()
    model.graph.node.append(node)
    return model


def function() -> onnx.ModelProto:
    model = foreign_model()
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "Twice", ["x"], ["y"], nodes, opsets))
    return model


def lying_shape() -> onnx.ModelProto:
    model = foreign_model()
    model.graph.initializer[0].dims[0] = 17
    return model


def gigantic_shape() -> onnx.ModelProto:
    model = foreign_model()
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])
    model.graph.initializer.append(tensor)
    return model


def gigantic_constant() -> onnx.ModelProto:
    model = foreign_model()
    sides = numpy_helper.from_array(np.array([1 << 20, 1 << 14], np.int64), "sides")
    model.graph.initializer.append(sides)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["huge"]))
    return model


def negative_shape() -> onnx.ModelProto:
    model = foreign_model()
    model.graph.initializer[0].dims[0] = -16
    return model


def own_code() -> onnx.ModelProto:
    model = foreign_model()
    node = helper.make_node("EPContext", ["data"], ["x"], domain="com.microsoft", main_context=1)
    model.graph.node.append(node)
    return model


def old() -> onnx.ModelProto:
    model = foreign_model()
    model.opset_import[0].version = 6
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (external, r"external data for tensor .kernel."),
        (custom_domain, r"got domain 'ai\.onnx\.contrib'"),
        (undeclared_domain, r"got domain 'my\.ops'"),
        (control_flow, "expected no control flow, got Loop"),
        (lambda: control_flow("If"), "expected no control flow, got If"),
        (lambda: control_flow("Scan", 12), "expected no control flow, got Scan"),
        (lambda: control_flow("Loop", 20), "nested at most 16 deep"),
        (function, 'got the local function "Twice"'),
        (lying_shape, r'tensor "kernel": expected 1836 bytes for shape \[17, 3, 3, 3\], got 1728'),
        (negative_shape, r'tensor "kernel": expected a shape, got \[-16'),
        (gigantic_shape, r'tensor "huge" of shape \[1048576, 1048576\]: expected at most 1024 MiB'),
        (gigantic_constant, r'tensor "huge" of shape .*: expected at most 1024 MiB, got 65536'),
        (own_code, "expected no EPContext"),
        (old, "expected opset 7 or later, got 6"),
        (lambda: batch_norm(training_mode=1), "got BatchNormalization in training mode"),
        (lambda: dropout(True), "got Dropout in training mode"),
        (dynamic, "dynamic quantization, which takes its scale from the whole batch"),
        (circle, "which none makes, or a circle"),
    ],
)
def test_what_no_classifier_needs_is_refused_with_a_reason(
    make: Callable[[], onnx.ModelProto], reason: str
) -> None:
    with pytest.raises(AdoptError, match=reason):
        screen(make().SerializeToString(), GIB)


def test_weights_may_be_normalised_as_a_batch_is() -> None:
    """As timm's and BiT's standardised convolutions are exported: no row changes them."""
    model = batch_norm(training_mode=1)
    weights = np.random.default_rng(0).random((1, CLASSES, 9)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    norm.input[0] = "weights"
    screen(model.SerializeToString(), GIB)
    norm.input[0] = "scores"
    with pytest.raises(AdoptError, match="in training mode"):
        screen(model.SerializeToString(), GIB)


def test_what_has_no_effect_is_tidied() -> None:
    """Imports that no node uses, nodes out of order; inference is no training."""
    for model in (batch_norm(), dropout(False)):
        screen(model.SerializeToString(), GIB)
    model = foreign_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    wanted = [node.output[0] for node in model.graph.node]
    nodes = list(reversed(model.graph.node))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    screened = screen(model.SerializeToString(), GIB)
    assert [each.domain for each in screened.opset_import] == [""]
    assert [node.output[0] for node in screened.graph.node] == wanted


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_and_never_opened(protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return pytest.fail, ("a pickle was opened",)

    with pytest.raises(AdoptError, match="expected ONNX, got a pickle"):
        screen(pickle.dumps(Bomb(), protocol), GIB)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not onnx at all", b"\xff" * 1000])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(AdoptError, match=r"^expected an ONNX model") as refused:
        screen(content, GIB)
    assert str(refused.value).count("expected") == 1


def test_a_cut_file_is_refused_at_any_length() -> None:
    content = foreign_model().SerializeToString()
    for size in range(0, len(content), 61):
        with pytest.raises(AdoptError):
            model = screen(content[:size], GIB)
            find_input(model, Options())
            find_answer(model, Options())
            pytest.fail(f"a file cut at {size} passed")


def expanding(rows: int) -> onnx.ModelProto:
    """A graph of a few bytes whose run asks for ``rows`` times a thousand floats."""
    model = foreign_model()
    sides = numpy_helper.from_array(np.array([rows, 1000, 1, 1], np.int64), "sides")
    model.graph.initializer.append(sides)
    nodes = model.graph.node
    nodes[-1].input[0] = "sum"
    for node in (
        helper.make_node("ReduceMax", ["data"], ["one"], axes=[0, 1, 2, 3], keepdims=1),
        helper.make_node("Expand", ["one", "sides"], ["wide"]),
        helper.make_node("ReduceMin", ["wide"], ["least"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["least", "least"], ["zero"]),
        helper.make_node("Add", ["scores", "zero"], ["sum"]),
    ):
        nodes.insert(len(nodes) - 1, node)
    return model


def test_memory_of_a_run_is_bounded(tmp_path: Path) -> None:
    """Nothing in the file is large: only running it shows. The machine never pays for it."""
    bounds = Bounds(2 * GIB, 60)
    file = tmp_path / "small.onnx"
    repository = ModelRepository(tmp_path / "models")
    file.write_bytes(expanding(1000).SerializeToString())
    assert adopt(Request(file, LABELS, bounds=bounds), "small", repository).version == 1
    file.write_bytes(expanding(2_000_000).SerializeToString())
    assert file.stat().st_size < 10_000
    with pytest.raises(AdoptError, match="within 2 GiB and 60 s, got"):
        adopt(Request(file, LABELS, bounds=bounds), "bomb", repository)
    assert repository.names() == ["small"]


def test_time_of_a_run_is_bounded() -> None:
    model = foreign_model()
    shape = numpy_helper.from_array(np.array([1, 1, 4000, 4000], np.int64), "sides")
    model.graph.initializer.append(shape)
    nodes = [
        helper.make_node("ReduceMax", ["data"], ["one"], axes=[0, 1, 2, 3], keepdims=1),
        helper.make_node("Expand", ["one", "sides"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(500)]
    nodes += [helper.make_node("ReduceMin", ["m500"], ["answer"], axes=[0, 1, 2, 3], keepdims=0)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    started = time.monotonic()
    with pytest.raises(AdoptError, match=r"within 2 GiB and 2 s, got (signal|no result)"):
        images = np.zeros((1, 3, 8, 8), np.float32)
        run_bounded(model.SerializeToString(), [images], Bounds(2 * GIB, 2))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (foreign_model(), {"layout": "NHWC"}, r"expected 1 or 3 channels \(grey or RGB\) in NHWC"),
        (foreign_model(), {"size": (9, 9)}, "expected --size to fit its shape"),
        (foreign_model(channels=4), {}, "got 4 in shape"),
        (foreign_model(side="side"), {}, "expected --size, its shape"),
        (foreign_model(elem_type=TensorProto.UINT16), {"is_scaled": False}, "give --scale 257"),
        (foreign_model(elem_type=TensorProto.INT8), {}, "got 0 to 255 .*: give --mean 128"),
        (chosen("TopK"), {"gives": "probabilities"}, "got TopK"),
        (chosen("ArgMax"), {}, "got ArgMax, the winner alone"),
        (foreign_model(), {"output": "other"}, "output: expected one of answer, got 'other'"),
        (foreign_model(channels=1), {"channels": "BGR"}, "it takes grey images"),
        (foreign_model(elem_type=TensorProto.UINT8), {"scale": 0.5}, "it takes uint8 pixels"),
    ],
)
def test_open_questions_are_asked(
    model: onnx.ModelProto, options: dict[str, object], reason: str
) -> None:
    asked = Options(**options)  # type: ignore[arg-type]
    with pytest.raises(AdoptError, match=reason):
        find_input(model, asked)
        find_answer(model, asked)
