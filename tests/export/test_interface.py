"""Inputs that graphs come with; what each needs to be told, and that its pixels arrive."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import AdoptError
from export.interface import INPUTS, find_input, find_precision
from export.options import Options
from export.scores import GraphAnswer, find_answer
from export.wrap import Foreign, wrap
from tests.export.conftest import Adopt
from tests.export.foreign import foreign_model


def echo(elem_type: int, shape: list[Any]) -> onnx.ModelProto:
    """A graph that answers the sums of its input's first and last 12 values."""
    dtype = TensorProto.FLOAT
    constants = {"line": np.array([-1, 48]), "parts": np.array([-1, 2, 24])}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["data"], ["floats"], to=dtype),
            helper.make_node("Reshape", ["floats", "parts"], ["halves"]),
            helper.make_node("ReduceMean", ["halves"], ["answer"], axes=[2], keepdims=0),
        ],
        "echo",
        [helper.make_tensor_value_info("data", elem_type, shape)],
        [helper.make_tensor_value_info("answer", dtype, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("elem_type", "shape", "options"),
    [
        (TensorProto.INT8, ["N", 3, 4, 4], {"mean": (128.0,)}),
        (TensorProto.UINT16, ["N", 3, 4, 4], {"scale": 257.0}),
        (TensorProto.DOUBLE, ["N", 3, 4, 4], {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3)}),
        (TensorProto.BFLOAT16, ["N", 4, 4, 3], {}),
        (TensorProto.FLOAT, ["N", 48], {"size": (4, 4), "layout": "NCHW"}),
        (TensorProto.FLOAT, ["N", 48], {"size": (4, 4), "layout": "NHWC", "channels": "BGR"}),
        (TensorProto.FLOAT, [0, 48], {"size": (4, 12)}),
        (TensorProto.FLOAT, ["N", 6, 8], {}),
        (TensorProto.UINT8, [-1, "h", "w"], {"size": (6, 8)}),
    ],
)
def test_pixels_arrive_as_numpy_prepares_them(
    elem_type: int, shape: list[Any], options: dict[str, Any]
) -> None:
    asked, model = Options(**options), echo(elem_type, shape)
    given = find_input(model, asked)
    foreign = Foreign(model, given, GraphAnswer("answer", None), asked, 2)
    session = onnxruntime.InferenceSession(wrap(foreign).SerializeToString())
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (3, *given.image.shape_HWC), dtype=np.uint8)
    prepared = given.prepare(images, asked)
    assert prepared.dtype == INPUTS[elem_type] and prepared.shape == (3, *given.row_shape)
    halves = prepared.reshape(3, 2, 24).astype(np.float64).mean(axis=2)
    got = session.run(["logits"], {"images": images})[0]
    np.testing.assert_allclose(got, halves, rtol=1e-6, atol=1e-6)


def test_bfloat16_runs_in_the_sandbox(adopted: Adopt) -> None:
    """Its arrays go there as they are, although NumPy has no such type of its own."""
    assert np.arange(256).astype(ml_dtypes.bfloat16).astype(int).tolist() == list(range(256))
    adopted(foreign_model(elem_type=TensorProto.BFLOAT16))


@pytest.mark.parametrize(
    "elem_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]
)
def test_an_output_of_any_float_is_compared(adopted: Adopt, elem_type: int) -> None:
    model = foreign_model(ending="softmax")
    model.graph.node[-1].output[0] = "narrow"
    model.graph.node.append(helper.make_node("Cast", ["narrow"], ["answer"], to=elem_type))
    model.graph.output[0].type.tensor_type.elem_type = elem_type
    artifact = adopted(model, scale=1 / 255)
    assert artifact.parity is not None and artifact.parity.label_agreement == 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3])
def test_free_axes_are_read_from_the_first_convolution(layout: str, channels: int) -> None:
    model = foreign_model(layout=layout, channels=channels)
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "nabc", strict=True):
        side.dim_param = name
    given = find_input(model, Options(size=(8, 9)))
    assert (given.layout, given.image.shape_HWC) == (layout, (8, 9, channels))
    with pytest.raises(AdoptError, match="expected --size, its shape"):
        find_input(model, Options())
    onnx.helper.set_model_props(model, {"imgsz": "[8, 9]"})
    assert find_input(model, Options()) == given


def test_channels_that_nothing_shows_are_asked_for() -> None:
    model = echo(TensorProto.FLOAT, ["n", "c", "h", "w"])
    with pytest.raises(AdoptError, match="expected --layout"):
        find_input(model, Options(size=(4, 4)))
    with pytest.raises(AdoptError, match="expected --input-channels"):
        find_input(model, Options(size=(4, 4), layout="NCHW"))
    given = find_input(model, Options(size=(4, 4), layout="NCHW", input_channels=3))
    assert given.image.mode == "RGB"
    with pytest.raises(AdoptError, match="expected --input-channels 3, as in its shape"):
        find_input(foreign_model(), Options(input_channels=1))


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        (["N", 48], {}, "expected --size, as 8x8"),
        (["N", 48], {"size": (4, 4)}, "expected --layout NCHW or NHWC"),
        (["N", 48], {"size": (5, 5)}, "got 5x5 and 1"),
        ([3, 6, 8], {}, r"expected \[N, H, W\] or 4 axes"),
        (["N", 6, 8], {"size": (8, 6)}, "expected --size to fit"),
        (["N", 1, 3, 4, 4], {}, r"expected \[N, C, H, W\]"),
    ],
)
def test_what_a_shape_hides_is_asked_for(
    shape: list[Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AdoptError, match=reason):
        find_input(echo(TensorProto.FLOAT, shape), Options(**options))


def test_the_only_output_of_floats_is_taken() -> None:
    """scikit-learn's converter writes the winner beside the probabilities."""
    model = foreign_model(ending="softmax")
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    model.graph.output.insert(0, label)
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1))
    assert find_answer(model, Options()) == GraphAnswer("scores", "answer")
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4]))
    with pytest.raises(AdoptError, match=r"--output with one of label \[N\], answer \[N, 4\]"):
        find_answer(model, Options())


def test_a_dict_a_row_is_cut_off(adopted: Adopt) -> None:
    """What scikit-learn's converter writes unless it is told not to."""
    model = foreign_model(ending="softmax")
    del model.graph.output[0]
    dicts = helper.make_node("ZipMap", ["answer"], ["dicts"], domain="ai.onnx.ml")
    dicts.attribute.append(helper.make_attribute("classlabels_int64s", [0, 1, 2, 3]))
    model.graph.node.append(dicts)
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1))
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    rows = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1]))
    model.graph.output.append(helper.make_value_info("dicts", rows))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    assert find_answer(model, Options()) == GraphAnswer("scores", "answer")
    artifact = adopted(model, scale=1 / 255)
    assert artifact.parity is not None and artifact.parity.label_agreement == 1
    with pytest.raises(AdoptError, match=r"expected one of label, answer, got .dicts."):
        find_answer(model, Options(output="dicts"))


def test_an_input_without_a_shape_asks_for_its_size() -> None:
    model = foreign_model(layout="NHWC")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(AdoptError, match="expected --size, its shape"):
        find_input(model, Options())
    given = find_input(model, Options(size=(8, 8)))
    assert (given.layout, given.image.shape_HWC, given.batch) == ("NHWC", (8, 8, 3), None)


def test_precision_is_that_of_the_weights() -> None:
    assert find_precision(foreign_model()) == "fp32"
    assert find_precision(foreign_model(elem_type=TensorProto.FLOAT16)) == "fp16"
    model = foreign_model()
    model.graph.node.append(helper.make_node("QuantizeLinear", ["scores", "s"], ["q"]))
    assert find_precision(model) == "int8"


def test_a_scale_that_nobody_gives_is_a_question(
    adopted: Adopt, caplog: pytest.LogCaptureFixture
) -> None:
    """Answered only by one linear layer to which pixels of 0 to 1 say nothing at all."""
    with pytest.raises(AdoptError, match=r"give --scale 1 if it takes 0 to 255, --scale 1/255"):
        adopted(foreign_model(), is_scaled=False)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["data"], ["means"]),
            helper.make_node("Mul", ["means", "step"], ["small"]),
            helper.make_node("Flatten", ["small"], ["answer"]),
        ],
        "colours",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(1 / 16, np.float32), "step")],
    )
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    adopted(model, labels=("red", "green", "blue"), is_scaled=False)
    assert "takes pixels from 0 to 255" in caplog.text
    # One that tells only where something is: what is the same everywhere leaves it undecided.
    weights = np.zeros((4, 3, 8, 8), np.float32)
    for side, place in enumerate((np.s_[:4], np.s_[4:], np.s_[:, :4], np.s_[:, 4:])):
        weights[side, 0][place] = 1 / 512
    sides = helper.make_graph(
        [helper.make_node("Conv", ["data", "kernel"], ["answer"])],
        "sides",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", 4, 1, 1])],
        [numpy_helper.from_array(weights, "kernel")],
    )
    placed = helper.make_model(sides, opset_imports=imports, ir_version=8)
    adopted(placed, labels=("top", "bottom", "left", "right"), is_scaled=False)
    # Several layers: as likely a mean was taken off, of 100 and more, but not divided.
    model.graph.node[1].output[0] = "straight"
    model.graph.node.insert(2, helper.make_node("Relu", ["straight"], ["small"]))
    with pytest.raises(AdoptError, match="and the mean and std that it was trained with"):
        adopted(model, labels=("red", "green", "blue"), is_scaled=False)
