"""Inference of the Open Inference Protocol V2, for HTTP and gRPC alike.

    InferRequest -> check against the artifact -> decode -> the model's one queue -> OutputTensor

HTTP and gRPC are thin layers over ``InferCall``. Rows arrive decoded (UINT8 [N, H, W, C]) or as
encoded images (BYTES [N]), which go through the same decode stage as ``/predict``'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import Pixels
from service.errors import InferenceError, InvalidInputError, ServiceError
from service.pipeline.decode import Errors
from service.pipeline.job import Job, Rows
from service.pipeline.postprocess import not_finite, rank
from service.protocols.engine import Engine, Target
from service.protocols.limits import Held
from service.protocols.v2.codec import (
    InputTensor,
    OutputTensor,
    classify,
    read_images,
    read_pixels,
)

INPUT = "images"
OUTPUTS = ("logits", "probabilities")
_DAY_S = 86_400.0


@dataclass(slots=True)
class RequestedOutput:
    """One output that a request names.

    Attributes:
        name: As sent.
        top: Classes of a classification, as sent; 0: the tensor itself.
        is_binary: Whether its bytes follow the JSON.
    """

    name: str
    top: Any = 0
    is_binary: bool = False


@dataclass(slots=True)
class InferRequest:
    """One inference request as it was sent: types are checked, values are not.

    Attributes:
        inputs: Tensors.
        outputs: The outputs to return, None for all.
        id: Echoed in the answer, None if the request has none.
        parameters: Name to string, number or boolean.
        are_outputs_binary: Whether outputs that are not named are binary.
    """

    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    are_outputs_binary: bool = False

    def is_binary(self, position: int) -> bool:
        """Return whether the output at a position of the answer is binary."""
        if self.outputs is None:
            return self.are_outputs_binary
        return self.outputs[position].is_binary


class InferJob(Job):
    """The rows of one call in the queue."""

    __slots__ = ("_call",)

    def __init__(self, rows: Rows, deadline: float, call: "InferCall") -> None:
        super().__init__(rows, deadline)
        self._call: InferCall | None = call

    def done(self) -> None:
        """Pass the outputs to the call, and drop it: leave no cycle to the collector."""
        call, self._call = self._call, None
        assert call is not None, "a job is done once; this is a bug"
        call.collect(self)


class InferCall:
    """One request: check, decode, queue, collect.

    Args:
        engine: What all protocols share.
        target: The version that answers.
        request: The request.
        on_done: Called once, on the loop, with this call; ``error`` is set or ``outputs`` are.
            Never called after ``cancel``.
        held: What the request holds already, and will until it is done.

    Attributes:
        job: The rows in the queue, once they are there.
        images: The encoded images, if there are any and requests are recorded.
        outputs: The outputs of the model, once the call is done.
        error: Why there are none.
    """

    __slots__ = (
        "_cancel_decoding",
        "_deadline",
        "_engine",
        "_is_cancelled",
        "_on_done",
        "_target",
        "error",
        "held",
        "images",
        "job",
        "outputs",
        "request",
    )

    def __init__(
        self,
        engine: Engine,
        target: Target,
        request: InferRequest,
        on_done: "Callable[[InferCall], None]",
        held: Held,
    ) -> None:
        self._engine = engine
        self._target = target
        self.request = request
        self._on_done = on_done
        self.held = held
        self._is_cancelled = False
        self._cancel_decoding: Callable[[], None] | None = None
        self.job: Job | None = None
        self.images: list[bytes] | None = None
        self.outputs: list[OutputTensor] = []
        self.error: ServiceError | None = None

    def begin(self, received_at: float, timeout_s: float) -> None:
        """Check the request and queue its rows, now or once they are decoded.

        Args:
            received_at: ``time.monotonic`` when the request was whole, seconds.
            timeout_s: Time for the answer; the request's parameter ``timeout`` may shorten it.

        Raises:
            ServiceError: The request is refused, and ``on_done`` is not called.
        """
        request = self.request
        if request.parameters:
            timeout_s = min(timeout_s, _timeout_s(request.parameters) or timeout_s)
        self._deadline = received_at + timeout_s
        if not request.outputs:
            request.outputs = None
        else:
            _check_outputs(request.outputs)
        tensor = _the_input(request.inputs)
        request.inputs = []  # what was read from them is what is held
        shape_HWC = self._target.classifier.artifact.image.shape_HWC
        rows = self._engine.max_request_rows
        if tensor.datatype == "UINT8":
            self._queue(read_pixels(tensor, shape_HWC, rows, self.held.take))
        elif tensor.datatype == "BYTES":
            images = read_images(tensor, rows, self.held.take)
            if self._target.recording is not None:
                self.images = images
            self._cancel_decoding = self._target.decode_stage.decode(
                images, self._deadline, self._queue_decoded, stops_at_error=True
            )
        else:
            raise InvalidInputError(
                f'input "{INPUT}": expected UINT8 {[-1, *shape_HWC]}, or BYTES [-1] of encoded '
                f"images, got {tensor.datatype} {tensor.shape}"
            )

    def cancel(self) -> None:
        """Cancel the call, as its client left; images that are being decoded stay held."""
        self._is_cancelled = True
        if self.job is not None:
            self._target.batcher.cancel(self.job)
            self.held.give()
        elif self._cancel_decoding is not None:
            self._cancel_decoding()

    def _queue_decoded(self, rows: list[Pixels], errors: Errors) -> None:
        self._cancel_decoding = None  # no cycle
        if self._is_cancelled:
            self.held.give()
            return
        try:
            for position, error in enumerate(errors):
                if error is not None:
                    raise _in_row(error, position)
            self._queue(rows)
        except ServiceError as refused:
            self._finish(refused.detached())

    def _queue(self, rows: Rows) -> None:
        job = InferJob(rows, self._deadline, self)
        self._target.batcher.enqueue(job)
        self.job = job

    def collect(self, job: Job) -> None:
        """Read the outputs of this request from the batches that ran its rows."""
        error = job.error or _of_a_row(job.row_errors())
        if error is None:
            asked = self.request.outputs
            wanted = [RequestedOutput(name) for name in OUTPUTS] if asked is None else asked
            labels = self._target.classifier.artifact.labels
            for output in wanted:
                values_NK = _values(job, output.name)
                error = error or _of_a_row(not_finite(values_NK))
                if not output.top:
                    shape = list(values_NK.shape)
                    self.outputs.append(OutputTensor(output.name, "FP32", shape, values_NK))
                    continue
                order_NT = rank(values_NK, min(output.top, len(labels)))
                strings = classify(values_NK, order_NT, labels)
                shape = list(order_NT.shape)
                self.outputs.append(OutputTensor(output.name, "BYTES", shape, strings))
        self._finish(error)

    def record(self, protocol: str, request_id: bytes, received_at: float) -> None:
        """Record the answered request, if it is in the share."""
        recording, job = self._target.recording, self.job
        if recording is not None and job is not None:
            recording.left -= 1
            if recording.left < 0:
                recording.answered(protocol, request_id, received_at, job, self.images)

    def _finish(self, error: ServiceError | None) -> None:
        self.error = error
        self.held.give()
        on_done, self._on_done = self._on_done, _nobody  # leave no cycle to the collector
        on_done(self)


def _nobody(_call: InferCall) -> None:
    """Replace a callback that was called."""


def _the_input(inputs: list[InputTensor]) -> InputTensor:
    if len(inputs) != 1:
        raise InvalidInputError(f'inputs: expected one, "{INPUT}", got {len(inputs)}')
    if inputs[0].name != INPUT:
        raise InvalidInputError(f'inputs: expected "{INPUT}", got "{inputs[0].name}"')
    return inputs[0]


def _check_outputs(outputs: list[RequestedOutput]) -> None:
    for output in outputs:
        if output.name not in OUTPUTS:
            raise InvalidInputError(
                f'outputs: expected {" or ".join(OUTPUTS)}, got "{output.name}"'
            )
        if type(output.top) is not int or output.top < 0:
            raise InvalidInputError(
                f'output "{output.name}": expected classification to be a whole number from 0'
            )
    if len(outputs) != 1 and len({output.name for output in outputs}) != len(outputs):
        raise InvalidInputError("outputs: expected each once, got one twice")


def _timeout_s(parameters: dict[str, Any]) -> float:
    """Check the parameters of the schedule policy; return the time-out in seconds, 0: none.

    ``timeout`` is in microseconds. ``priority`` is checked and has no effect: there is one queue.
    """
    for name in ("timeout", "priority"):
        value = parameters.get(name, 0)
        if type(value) is not int or value < 0:
            raise InvalidInputError(
                f'parameter "{name}": expected a whole number from 0, got {str(value)[:40]!r}'
            )
    timeout_us: int = parameters.get("timeout", 0)
    return min(timeout_us / 1e6, _DAY_S)


def _values(job: Job, output: str) -> NDArray[np.float32]:
    """Return an output's rows of a finished job, float32 [N, K]; a view if run at once."""
    parts: list[NDArray[np.float32]] = []
    for batch, first, count in job.parts:
        assert batch.outputs is not None, "only finished jobs are asked; this is a bug"
        values_NK = batch.outputs.logits if output == "logits" else batch.outputs.probabilities
        parts.append(values_NK[first : first + count])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _of_a_row(errors: dict[int, str]) -> ServiceError | None:
    """Return the error of the first row without an answer: V2 has no place for it beside others."""
    if not errors:
        return None
    row = min(errors)
    return InferenceError(f'input "{INPUT}" [{row}]: {errors[row]}')


def _in_row(error: ServiceError, position: int) -> ServiceError:
    """Return an error of the same class that names the image of the tensor."""
    return type(error)(f'input "{INPUT}" [{position}]: {error.message}')
