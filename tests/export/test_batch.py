"""Graphs with a fixed batch size, freed; run in this process against the graph as it is."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import AdoptError
from export.interface import find_input
from export.options import Options
from export.scores import GraphAnswer
from export.wrap import Foreign, wrap
from tests.export.conftest import Adopt

CLASSES, WIDTH, SIDE = 3, 6, 4


def model_of(
    nodes: list[onnx.NodeProto], batch: int, opset: int, **more: NDArray[np.generic]
) -> onnx.ModelProto:
    """[B, 3, 4, 4] to [B, 3]; ``nodes`` go from ``tokens`` [B, 16, 6] to ``mean`` [B, 6]."""
    generator = np.random.default_rng(2)
    constants = {
        "first": generator.normal(0, 1, (WIDTH, 3, 1, 1)).astype(np.float32),
        "last": generator.normal(0, 1, (WIDTH, CLASSES)).astype(np.float32),
        "to_tokens": np.array([batch, WIDTH, SIDE * SIDE]),
        "class": generator.normal(0, 5, (1, 1, WIDTH)).astype(np.float32),
        **more,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["data", "first"], ["maps"]),
            helper.make_node("Reshape", ["maps", "to_tokens"], ["lines"], allowzero=1),
            helper.make_node("Transpose", ["lines"], ["tokens"], perm=[0, 2, 1]),
            *nodes,
            helper.make_node("MatMul", ["mean", "last"], ["scores"]),
        ],
        "fixed",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


# Ways in which exporters bring a class token to as many rows as the batch has.
TOKENS = ("row", "expanded", "tiled", "filled")


def class_token(batch: int, opset: int = 17, *, joined: str = "row") -> onnx.ModelProto:
    """A class token before the others; ``row`` is a constant of all rows."""
    more: dict[str, NDArray[np.generic]] = {
        "to_rows": np.array([batch, 1, WIDTH]),
        "repeats": np.array([batch, 1, 1]),
    }
    nodes = [
        helper.make_node("Expand", ["class", "to_rows"], ["expanded"]),
        helper.make_node("Tile", ["class", "repeats"], ["tiled"]),
        helper.make_node("ConstantOfShape", ["to_rows"], ["zeros"]),
        helper.make_node("Add", ["zeros", "class"], ["filled"]),
        helper.make_node("Concat", [joined, "tokens"], ["all"], axis=1),
        helper.make_node("Softmax", ["all"], ["soft"], axis=1),
        helper.make_node("GlobalAveragePool", ["soft"], ["pooled"]),
        helper.make_node("Mul", ["soft", "pooled"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "to_flat"], ["flat"]),
        helper.make_node("MatMul", ["flat", "narrow"], ["mean"]),
    ]
    count = SIDE * SIDE + 1
    more["to_flat"] = np.array([batch, -1])
    more["narrow"] = np.random.default_rng(3).normal(0, 1, (count * WIDTH, WIDTH))
    more["narrow"] = more["narrow"].astype(np.float32)
    model = model_of(nodes, batch, opset, **more)
    (token,) = (each for each in model.graph.initializer if each.name == "class")
    row = numpy_helper.to_array(token)
    model.graph.initializer.append(
        numpy_helper.from_array(np.repeat(row, batch, axis=0).copy(), "row")
    )
    return model


def rows_second(batch: int, opset: int = 17) -> onnx.ModelProto:
    """Rows and tokens change places, as in attention; the shapes name both as numbers."""
    nodes = [
        helper.make_node("Transpose", ["tokens"], ["swapped"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["swapped", "to_heads"], ["heads"]),
        helper.make_node("MatMul", ["heads", "heads_turned"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "back"], ["again"]),
        helper.make_node("ReduceMean", ["again"], ["mean"], axes=[0], keepdims=0),
    ]
    turned = np.random.default_rng(4).normal(0, 1, (WIDTH // 2, WIDTH // 2)).astype(np.float32)
    return model_of(
        nodes,
        batch,
        opset,
        to_heads=np.array([SIDE * SIDE, batch * 2, WIDTH // 2]),
        heads_turned=turned,
        back=np.array([SIDE * SIDE, batch, WIDTH]),
    )


def check(model: onnx.ModelProto, *, by_row: bool, counts: tuple[int, ...] = (1, 2, 3, 7)) -> None:
    options = Options(scale=1 / 255)
    given = find_input(model, options)
    assert given.batch is not None
    foreign = Foreign(model, given, GraphAnswer("scores", None), options, CLASSES)
    wrapped = wrap(foreign, by_row=by_row)
    onnx.checker.check_model(wrapped, full_check=True)
    assert ("Scan" in {node.op_type for node in wrapped.graph.node}) == by_row
    ours = onnxruntime.InferenceSession(wrapped.SerializeToString())
    theirs = onnxruntime.InferenceSession(model.SerializeToString())
    generator = np.random.default_rng(6)
    for count in counts:
        images = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        got = ours.run(["logits"], {"images": images})[0]
        assert got.shape == (count, CLASSES)
        for row, image in enumerate(images):
            pixels = given.prepare(np.repeat(image[None], given.batch, axis=0), options)
            expected = theirs.run(None, {"data": pixels})[0][0]
            np.testing.assert_allclose(got[row], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("token", TOKENS)
def test_reshapes_and_class_tokens_are_rewritten(batch: int, token: str) -> None:
    check(class_token(batch, joined=token), by_row=False)


@pytest.mark.parametrize("batch", [1, 4])
def test_any_graph_of_a_fixed_batch_runs_in_groups(batch: int) -> None:
    check(rows_second(batch), by_row=True)
    check(class_token(batch), by_row=True, counts=(5,))


def test_a_graph_too_old_for_it_is_refused() -> None:
    with pytest.raises(AdoptError, match="expected a free batch size, got 4 rows and opset 12"):
        check(rows_second(4, opset=12), by_row=True)


def test_what_cannot_be_rewritten_is_adopted_in_groups(
    adopted: Adopt, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = adopted(rows_second(4), labels=("a", "b", "c"), scale=1 / 255)
    assert "batch size is fixed to 4" in caplog.text
    assert artifact.parity is not None and artifact.parity.label_agreement == 1
