import numpy as np
import onnx
import pytest

from service.errors import InferenceError
from service.session.plans import Plan
from service.session.session import Session
from tests.tiny import SIDE, random_images, tiny_logits, tiny_model, tiny_probabilities

MODEL = tiny_model().SerializeToString()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_outputs_are_the_closed_form(threads: int, rows: int) -> None:
    images = random_images(rows)
    before = images.copy()
    outputs = Session(MODEL, Plan(threads=threads)).run(images)
    np.testing.assert_array_equal(outputs.logits, tiny_logits(images))
    np.testing.assert_allclose(outputs.probabilities, tiny_probabilities(images), atol=1e-6)
    assert outputs.logits.dtype == outputs.probabilities.dtype == np.float32
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", MODEL[:-10], MODEL[10:], b"\x08\x08"],
    ids=["empty", "text", "cut", "headless", "only-version"],
)
def test_bad_bytes(content: bytes) -> None:
    with pytest.raises(InferenceError) as refused:
        Session(content, Plan())
    assert "\n" not in refused.value.message


def test_failing_run_names_the_shape() -> None:
    with pytest.raises(InferenceError, match=r"run of batch \(3, 5, 5, 1\) failed"):
        Session(MODEL, Plan()).run(np.zeros((3, 5, 5, 1), np.uint8))


def test_outputs_are_counted() -> None:
    """A graph that folds its rows together must not scatter wrong answers."""
    model = tiny_model()
    fold = onnx.helper.make_node("ReduceSum", ["summed", "first"], ["logits"], keepdims=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "logits":
                node.output[i] = "summed"
    position = next(i for i, node in enumerate(model.graph.node) if "logits" in node.input)
    model.graph.node.insert(position, fold)
    folding = Session(model.SerializeToString(), Plan())
    assert len(folding.run(random_images(1)).logits) == 1
    with pytest.raises(InferenceError, match="expected 4 rows out, got 1, 1"):
        folding.run(random_images(4))


def test_rows_need_not_be_contiguous() -> None:
    wide = random_images(8)
    outputs = Session(MODEL, Plan()).run(wide[::2])
    np.testing.assert_array_equal(outputs.logits, tiny_logits(wide[::2]))
    assert wide.shape == (8, SIDE, SIDE, 1)
