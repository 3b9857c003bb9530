"""Heads in NumPy and in nodes, of graphs whose scores are known."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.errors import AdoptError
from export.heads import complete
from export.interface import find_input
from export.options import Options, read_thresholds
from export.scores import GraphAnswer, find_answer
from export.wrap import Foreign, wrap
from tests.export import endings
from tests.export.conftest import Adopt
from tests.export.foreign import CLASSES, LABELS, SIDE, foreign_model, foreign_probabilities

IMAGES = np.random.default_rng(5).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def scores() -> NDArray[np.float64]:
    """The graph's own numbers before any head, up to a constant a row."""
    return np.log(foreign_probabilities(IMAGES.transpose(0, 3, 1, 2) / 255))


def one_number(ending: str) -> onnx.ModelProto:
    """The first score alone, [N, 1]."""
    model = foreign_model(ending=ending)
    for tensor in model.graph.initializer:
        if tensor.name == "last":
            weights = onnx.numpy_helper.to_array(tensor)[:, :1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.copy(), "last"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


def answers(model: onnx.ModelProto, classes: int, **options: Any) -> tuple[Any, Any, GraphAnswer]:
    asked = Options(scale=1 / 255, **options)
    answer = find_answer(model, asked)
    foreign = Foreign(model, find_input(model, asked), answer, asked, classes)
    content = wrap(foreign).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": IMAGES})
    names = [each for each in (answer.logits, answer.probabilities) if each]
    raw = onnxruntime.InferenceSession(expose(model, names), providers=["CPUExecutionProvider"])
    pixels = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    runs = [values.reshape(len(IMAGES), -1) for values in raw.run(names, {"data": pixels})]
    outputs = dict(zip(names, runs, strict=True))
    expected = complete(answer, outputs)
    np.testing.assert_allclose(probabilities, expected[1], rtol=0, atol=2e-6)
    np.testing.assert_allclose(logits, expected[0], rtol=0, atol=2e-4)
    return logits, probabilities, answer


def expose(model: onnx.ModelProto, names: list[str]) -> bytes:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(shown.SerializeToString())


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("sigmoid", {}),
        ("sigmoid", {"gives": "probabilities"}),
        ("logits", {"gives": "logits"}),
        ("sigmoid", {"task": "binary"}),
    ],
)
def test_one_number_is_the_second_of_two_labels(ending: str, options: dict[str, Any]) -> None:
    logits, probabilities, answer = answers(one_number(ending), 2, **options)
    assert answer.task == "binary"
    model = one_number("logits")
    pixels = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (values,) = session.run(None, {"data": pixels})
    second = 1 / (1 + np.exp(-values[:, 0].astype(np.float64)))
    np.testing.assert_allclose(probabilities, np.stack([1 - second, second], 1), atol=2e-6)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], values[:, 0], atol=2e-5)


def test_one_number_of_which_nobody_says_what_it_is_is_asked_for() -> None:
    with pytest.raises(AdoptError, match=r"give --gives probabilities .* --gives logits"):
        find_answer(one_number("logits"), Options())
    with pytest.raises(AdoptError, match="expected one number a row of a binary model"):
        find_answer(foreign_model(), Options(task="binary"))


@pytest.mark.parametrize(
    ("ending", "options"),
    [("sigmoid", {}), ("logits", {"task": "multi-label"})],
)
def test_several_sigmoids_are_each_a_label(ending: str, options: dict[str, Any]) -> None:
    logits, probabilities, answer = answers(foreign_model(ending=ending), CLASSES, **options)
    assert answer.task == "multi-label"
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=0, atol=2e-6)
    differences = logits - logits[:, :1]
    np.testing.assert_allclose(differences, scores() - scores()[:, :1], rtol=0, atol=2e-5)
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.1


def test_thresholds_are_one_number_or_a_file(tmp_path: Any, adopted: Adopt) -> None:
    path = tmp_path / "thresholds.txt"
    path.write_text("0.1\n0.2\n0.3\n0.4\n")
    artifact = adopted(foreign_model(ending="sigmoid"), scale=1 / 255, threshold=str(path))
    assert (artifact.task, artifact.thresholds) == ("multi-label", (0.1, 0.2, 0.3, 0.4))
    assert read_thresholds("0.7", "multi-label", LABELS) == (0.7,) * CLASSES
    assert read_thresholds(None, "multi-label", LABELS) == (0.5,) * CLASSES
    assert read_thresholds(None, "binary", LABELS[:2]) == ()
    for value, task, reason in (
        ("0.5", "single-label", "expected none of a single-label model"),
        ("1.5", "multi-label", "expected 4 numbers from 0 to 1"),
        ("none", "multi-label", "expected a number or a file"),
    ):
        with pytest.raises(AdoptError, match=reason):
            read_thresholds(value, task, LABELS)  # type: ignore[arg-type]


def test_what_looks_like_probabilities_is_a_question(adopted: Adopt) -> None:
    model = foreign_model(ending="hidden_softmax")
    with pytest.raises(AdoptError, match="rows that sum to 1 but no softmax: give --gives"):
        adopted(model, scale=1 / 255)
    _, probabilities, _ = answers(model, CLASSES, gives="probabilities")
    np.testing.assert_allclose(probabilities, np.exp(scores()), rtol=0, atol=2e-6)


def test_numbers_from_0_to_1_in_no_sum_are_a_question() -> None:
    values = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    with pytest.raises(AdoptError, match="--task multi-label --gives probabilities"):
        complete(GraphAnswer("answer", None, is_guess=True), {"answer": values})
    complete(GraphAnswer("answer", None), {"answer": values})
    with pytest.raises(AdoptError, match="expected probabilities that sum to 1"):
        complete(GraphAnswer(None, "answer"), {"answer": values})
    with pytest.raises(AdoptError, match="expected probabilities from 0 to 1"):
        complete(GraphAnswer(None, "answer", "multi-label"), {"answer": values * 9})


def raw(model: onnx.ModelProto) -> NDArray[np.float32]:
    """What a graph answers by itself."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    (values,) = session.run(None, {"data": pixels})
    return np.asarray(values)


@pytest.mark.parametrize("ending", endings.ASKED)
def test_probabilities_of_any_ending_are_never_softmaxed_unasked(ending: str) -> None:
    model = endings.ended(endings.ASKED[ending]())
    answer = find_answer(model, Options())
    assert answer == GraphAnswer("answer", None, is_guess=True)
    with pytest.raises(AdoptError, match="rows that sum to 1 but no softmax: give --gives prob"):
        complete(answer, {"answer": raw(model)})
    _, probabilities, _ = answers(model, CLASSES, gives="probabilities")
    np.testing.assert_allclose(probabilities, raw(model), rtol=0, atol=2e-6)


@pytest.mark.parametrize("ending", endings.KNOWN)
def test_a_softmax_is_found_behind_what_passes_it_on(ending: str) -> None:
    model = endings.ended(endings.KNOWN[ending]())
    logits, probabilities, answer = answers(model, CLASSES)
    assert answer.logits is not None and answer.probabilities == "answer"
    np.testing.assert_allclose(probabilities, raw(model), rtol=0, atol=2e-6)
    powers = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=2e-6)


@pytest.mark.parametrize("opset", [7, 9, 12, 13, 18, 21, 23])
@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_every_opset_that_onnxruntime_runs_is_wrapped(opset: int, batch: int | str) -> None:
    for ending in ("softmax", "sigmoid", "4d"):
        model = foreign_model(opset=opset, batch=batch, ending=ending)
        asked = Options(scale=1 / 255)
        answer = find_answer(model, asked)
        foreign = Foreign(model, find_input(model, asked), answer, asked, CLASSES)
        content = wrap(foreign).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (got,) = session.run(["probabilities"], {"images": IMAGES})
        logits = raw(foreign_model())
        if ending == "sigmoid":
            expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
        else:
            expected = np.exp(scores())
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_percentages_are_a_question() -> None:
    model = endings.ended(endings.PERCENT)
    with pytest.raises(AdoptError, match=r"rows that sum to 100, .* divide them by 100 in the"):
        complete(find_answer(model, Options()), {"answer": raw(model)})
    complete(find_answer(model, Options(gives="logits")), {"answer": raw(model)})
    positive = np.random.default_rng(0).random((4, 3)).astype(np.float32) * 9
    complete(GraphAnswer("answer", None, is_guess=True), {"answer": positive})
    # Means of the channels of noise: their sum is nearly the same, and no whole.
    means = np.random.default_rng(1).normal(8, 0.01, (64, 3)).astype(np.float32)
    complete(GraphAnswer("answer", None, is_guess=True), {"answer": means})
    one = np.full((4, 3), 7, np.float32)  # rows that are equal show nothing
    complete(GraphAnswer("answer", None, is_guess=True), {"answer": one})


def test_sigmoids_behind_other_nodes_are_a_question() -> None:
    model = endings.ended(endings.MEAN_OF_SIGMOIDS)
    with pytest.raises(AdoptError, match="--task multi-label --gives probabilities"):
        complete(find_answer(model, Options()), {"answer": raw(model)})
    _, probabilities, answer = answers(model, CLASSES, gives="probabilities", task="multi-label")
    assert answer.task == "multi-label"
    np.testing.assert_allclose(probabilities, raw(model), rtol=0, atol=2e-6)


def hide_shape(model: onnx.ModelProto) -> None:
    """End a graph in a reshape whose shape is computed."""
    model.graph.node[-1].output[0] = "column"
    model.graph.node.append(onnx.helper.make_node("Shape", ["column"], ["sides"]))
    model.graph.node.append(onnx.helper.make_node("Abs", ["sides"], ["same"]))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["column", "same"], ["answer"]))


def test_a_number_where_two_are_expected_is_asked_about(adopted: Adopt) -> None:
    model = one_number("sigmoid")
    hide_shape(model)
    sides = model.graph.output[0].type.tensor_type.shape.dim
    sides[1].ClearField("dim_value")
    with pytest.raises(AdoptError, match=r"expected 2 numbers a row, .*: give --task binary if it"):
        adopted(model, labels=LABELS[:2], scale=1 / 255)
    assert adopted(model, labels=LABELS[:2], scale=1 / 255, task="binary").task == "binary"
    with pytest.raises(AdoptError, match=r"expected 3 numbers a row, .* --labels, or another"):
        adopted(foreign_model(), labels=LABELS[:3], scale=1 / 255)


@pytest.mark.parametrize(
    ("shape", "infers", "task"),
    [
        (["batch"], True, "binary"),
        (["batch", None], True, "binary"),  # as converters of Keras write it
        (None, True, "binary"),
        ([None, None], False, "multi-label"),
    ],
)
def test_one_number_is_found_whatever_the_output_says_of_its_shape(
    shape: list[Any] | None, infers: bool, task: str
) -> None:
    """Where nothing says it, ``--task binary`` does."""
    model = one_number("sigmoid")
    if shape == ["batch"]:
        model.graph.node[-1].output[0] = "column"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
        model.graph.node.append(onnx.helper.make_node("Squeeze", ["column", "axis"], ["answer"]))
    if not infers:
        hide_shape(model)
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, shape)
    )
    assert find_answer(model, Options()).task == task
    _, probabilities, answer = answers(model, 2, task="binary")
    assert answer.task == "binary"
    second = raw(one_number("sigmoid"))
    np.testing.assert_allclose(probabilities, np.hstack([1 - second, second]), atol=2e-6)


def test_a_row_without_the_axis_of_its_batch_is_no_single_number() -> None:
    model = foreign_model(batch=1, ending="softmax")
    model.graph.node[-1].output[0] = "row"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node.append(onnx.helper.make_node("Squeeze", ["row", "first"], ["answer"]))
    model.graph.output[0].type.tensor_type.shape.dim.pop(0)
    assert find_answer(model, Options()) == GraphAnswer("scores", "answer")


def test_our_own_graph_of_several_labels_is_known() -> None:
    model = foreign_model(ending="sigmoid")
    model.graph.node[-2].output[0] = model.graph.node[-1].input[0] = "logits"
    model.graph.node[-1].output[0] = model.graph.output[0].name = "probabilities"
    model.graph.output.insert(
        0, onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", CLASSES])
    )
    answer = find_answer(model, Options())
    assert answer == GraphAnswer("logits", "probabilities", "multi-label")
