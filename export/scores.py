"""The answer of a foreign graph: the tensors that hold its scores, and what a row of them is.

Read from the graph, and from options where it leaves something open. Legend: N rows, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from export.batch import infer_shapes
from export.errors import AdoptError
from export.interface import FLOATS, LAYERS, fixed_side
from export.options import Options
from models.artifact import Task

# Operators behind a softmax or a sigmoid that keep each class's number where and as it is.
_PASSING = frozenset({"Reshape", "Flatten", "Squeeze", "Identity", "Cast", "Dropout", "Unsqueeze"})
_CHOOSING = {
    "ArgMax": "the winner alone",
    "TopK": "the highest numbers, sorted, whose labels stand beside",
    "NonMaxSuppression": "boxes",
}


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """The tensors of a foreign graph that hold its answer; at least one is not None.

    Attributes:
        logits: Tensor before the softmax or sigmoid.
        probabilities: Tensor after it.
        task: What the numbers of a row are; ``binary``: one number, the second label's.
        is_guess: Whether only their values can show that they are logits.
    """

    logits: str | None
    probabilities: str | None
    task: Task = "single-label"
    is_guess: bool = False


def find_answer(model: onnx.ModelProto, options: Options) -> GraphAnswer:
    """Return the tensors that hold logits and probabilities, and what they mean.

    Raises:
        AdoptError: Several outputs and none chosen, or an output that is no score a label.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    outputs = _outputs(model, makers)
    asked = options.output or options.gives or options.task
    if list(outputs) == ["logits", "probabilities"] and not asked:  # as Foveal writes them
        is_many = _kind(_maker("probabilities", makers)) == "Sigmoid"
        return GraphAnswer("logits", "probabilities", "multi-label" if is_many else "single-label")
    output = _choose_output(outputs, options)
    _refuse_choosing(output, makers)
    maker = _maker(output, makers)
    kind = _kind(maker)
    sides = _sides(model, output)
    is_one = _is_one_number(model, sides)
    task: Task = options.task or (
        "binary" if is_one else "multi-label" if kind == "Sigmoid" else "single-label"
    )
    if is_one is not None and (task == "binary") != is_one:
        wanted = "one number a row" if task == "binary" else "a number a label"
        raise AdoptError(
            f'output "{output}": expected {wanted} of a {task} model, got shape {sides}'
        )
    ends = "Softmax" if task == "single-label" else "Sigmoid"
    if kind == ends and maker is not None and options.gives != "logits":
        return GraphAnswer(maker.input[0], output, task)
    if options.gives == "probabilities":
        return GraphAnswer(None, output, task)
    if options.gives is None and task == "binary":
        raise AdoptError(
            f'output "{output}": expected to know what the one number of a row is, got no Sigmoid: '
            "give --gives probabilities if it is the second label's probability, or --gives logits "
            "if a sigmoid is to follow"
        )
    return GraphAnswer(output, None, task, is_guess=options.gives is None)


def _outputs(
    model: onnx.ModelProto, makers: dict[str, onnx.NodeProto]
) -> dict[str, onnx.TypeProto.Tensor]:
    """Return the outputs; of a dict a row, as scikit-learn's converter ends, the tensor before."""
    outputs = {}
    for value in model.graph.output:
        maker = makers.get(value.name)
        if maker is not None and maker.op_type == "ZipMap":
            outputs[maker.input[0]] = onnx.TypeProto.Tensor(elem_type=TensorProto.FLOAT)
        else:
            outputs[value.name] = value.type.tensor_type
    return outputs


def _maker(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that computes the numbers of a tensor, which others may pass on."""
    maker = makers.get(name)
    while maker is not None and maker.op_type in _PASSING:
        maker = makers.get(maker.input[0])
    return maker


def _kind(node: onnx.NodeProto | None) -> str:
    return "" if node is None else node.op_type


def _sides(model: onnx.ModelProto, output: str) -> list[int | None]:
    """Return the sides of an output, inferred where the file leaves them open; [] if unknown."""
    value = next((value for value in model.graph.output if value.name == output), None)
    sides = [] if value is None else value.type.tensor_type.shape.dim
    stated = [fixed_side(side) for side in sides]
    if stated and None not in stated[1:]:
        return stated
    inferred = [side or None for side in infer_shapes(model).get(output, [])]
    return inferred or stated


def _is_one_number(model: onnx.ModelProto, sides: list[int | None]) -> bool | None:
    """Return whether a row of an output is one number; None if its sides do not say it."""
    if len(sides) == 1:  # [N]; or [K] of the one row of a batch whose axis is left out
        batches = {
            fixed_side(value.type.tensor_type.shape.dim[0])
            for value in model.graph.input
            if value.type.tensor_type.shape.dim
        }
        return sides[0] is None or sides[0] in batches
    if any(side not in (None, 1) for side in sides[1:]):
        return False
    return None if not sides or None in sides[1:] else True


def _choose_output(outputs: dict[str, onnx.TypeProto.Tensor], options: Options) -> str:
    """Return the output that was asked for, or the only one that can hold scores."""
    if options.output is not None:
        if options.output not in outputs:
            names = ", ".join(outputs)
            raise AdoptError(f"output: expected one of {names}, got {options.output!r}")
        return options.output
    if len(outputs) == 1:
        return next(iter(outputs))
    scores = [name for name, output in outputs.items() if output.elem_type in FLOATS]
    if len(scores) == 1:
        return scores[0]
    listed = ", ".join(
        f"{name} [{', '.join(str(fixed_side(side) or 'N') for side in output.shape.dim)}]"
        for name, output in outputs.items()
    )
    raise AdoptError(f"expected --output with one of {listed or 'its outputs'}, got none")


def _refuse_choosing(output: str, makers: dict[str, onnx.NodeProto]) -> None:
    """Refuse an output behind which an operator has already chosen among the classes."""
    for node in _back_to_layer(output, makers):
        if node.op_type in _CHOOSING:
            raise AdoptError(
                f'output "{output}": expected a number a label, got {node.op_type}, '
                f"{_CHOOSING[node.op_type]}: export the network without it, or cut the graph at "
                f'"{node.input[0]}" with onnx.utils.extract_model'
            )


def _back_to_layer(output: str, makers: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes before an output, up to the last layers."""
    seen: set[str] = set()
    left = [output]
    while left:
        name = left.pop()
        node = makers.get(name)
        if name in seen or node is None or node.op_type in LAYERS:
            continue
        seen.add(name)
        yield node
        left.extend(node.input)
