"""float16 only where an operator takes it: scales of Resize, and floats made of nothing, stay."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.precision import convert


def network() -> onnx.ModelProto:
    """Two layers; between them a Resize, and a border whose size is read from the tensor."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.standard_normal((4, 1, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(random.standard_normal((4, 4, 3, 3)).astype(np.float32), "v"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4),
        helper.make_node("Resize", ["y", "", "scales"], ["z"], mode="linear"),
        helper.make_node("Shape", ["z"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["ones"], value=one),
        helper.make_node("Add", ["z", "ones"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["b"], pads=[1] * 4),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["logits"], keepdims=0),
        helper.make_node("Conv", ["c", "v"], ["d"], pads=[1] * 4),
        helper.make_node("ReduceMean", ["d", "axes"], ["more"], keepdims=0),
        helper.make_node("Softmax", ["more"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])
            for name in ("logits", "probabilities")
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_what_takes_no_float16_keeps_float32() -> None:
    model = network()
    half = convert(model, "fp16", np.zeros((0, 8, 8, 1), np.uint8))
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds["scales"] == TensorProto.FLOAT
    assert kinds["w_fp16"] == TensorProto.FLOAT16
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), np.uint8)
    answers = [
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"images": images})
        for each in (model, half)
    ]
    for expected, got in zip(*answers, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
