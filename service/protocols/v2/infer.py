"""Inference as the Open Inference Protocol V2 means it, whatever carries it.

    InferRequest -> check against the artifact -> decode -> the model's one queue -> OutputTensor

HTTP and gRPC are thin wires on ``InferEngine``. Rows come decoded (UINT8 [N, H, W, C]) or as
encoded images (BYTES [N]), which take the same decoder as ``/predict``'s.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import Pixels
from service.errors import DecodeError, InvalidInputError, ServiceError
from service.metrics import Meters, ModelMetrics
from service.pipeline.alarm import Loop
from service.pipeline.classifier import Classifier
from service.pipeline.job import Job, Rows
from service.pipeline.postprocess import rank
from service.protocols.predict import INLINE_PIXELS
from service.protocols.v2.codec import (
    InputTensor,
    OutputTensor,
    classify,
    read_images,
    read_pixels,
)
from service.rollout.canary import Canary
from service.rollout.catalog import Catalog

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
    """One inference request as it was sent, its types checked, its values not.

    Attributes:
        inputs: Tensors.
        outputs: What is to be answered, None: everything.
        id: To be echoed, None if there is none.
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


class Target:
    """A classifier and what every answer for it shares; who answers a share in its place."""

    __slots__ = ("batcher", "canary", "classifier", "metrics")

    def __init__(
        self, classifier: Classifier, metrics: ModelMetrics, canary: "Canary[Target] | None" = None
    ) -> None:
        self.classifier = classifier
        self.metrics = metrics
        self.batcher = classifier.batcher
        self.canary = canary


class InferEngine:
    """What all wires of the protocol share.

    Args:
        catalog: Gives the catalog that is served now.
        loop: The loop that all requests arrive on.
        decoders: Threads for large images.
        meters: Where requests are counted.
        request_timeout_s: Deadline of a request that names none.
        max_request_rows: Rows in one request.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        loop: Loop,
        decoders: Executor,
        meters: Meters,
        *,
        request_timeout_s: float,
        max_request_rows: int,
    ) -> None:
        self.catalog = catalog
        self.loop = loop
        self.decoders = decoders
        self.meters = meters
        self.request_timeout_s = request_timeout_s
        self.max_request_rows = max_request_rows

    def find(self, name: str, version: str) -> Target:
        """Find the model that a request names, "" for its default version.

        Raises:
            ModelNotFoundError: None such.
            NotReadyError: No version of it could be loaded.
        """
        catalog = self.catalog()
        classifier = catalog.find(name, version)
        candidate = None if version else catalog.canaries.get(classifier.artifact.name)
        canary = None
        if candidate is not None:
            target = Target(candidate.classifier, self.meters.of(candidate.classifier))
            canary = Canary(target, classifier.artifact.name, candidate.fraction)
        return Target(classifier, self.meters.of(classifier), canary)


class InferCall:
    """One request on its way: check, decode, submit, collect.

    Args:
        engine: What all calls share.
        target: The model.
        request: What was asked.
        on_done: Called once, on the loop, with this call; ``error`` is set or ``outputs`` are.
            Never called after ``cancel``.

    Attributes:
        job: The rows in the queue, once they are there.
        outputs: The answer.
        error: Why there is none.
    """

    __slots__ = (
        "_deadline",
        "_engine",
        "_is_cancelled",
        "_on_done",
        "_target",
        "error",
        "job",
        "outputs",
        "request",
    )

    def __init__(
        self,
        engine: InferEngine,
        target: Target,
        request: InferRequest,
        on_done: "Callable[[InferCall], None]",
    ) -> None:
        self._engine = engine
        self._target = target
        self.request = request
        self._on_done = on_done
        self._is_cancelled = False
        self.job: Job | None = None
        self.outputs: list[OutputTensor] = []
        self.error: ServiceError | None = None

    def begin(self, received_at: float, timeout_s: float) -> None:
        """Check the request and queue its rows, now or once they are decoded.

        Args:
            received_at: ``time.monotonic`` when the request was whole, seconds.
            timeout_s: What it may take; its own ``timeout`` parameter may shorten that.

        Raises:
            ServiceError: The request is refused; ``on_done`` is not called.
        """
        request = self.request
        if request.parameters:
            timeout_s = min(timeout_s, _timeout_s(request.parameters) or timeout_s)
        self._deadline = received_at + timeout_s
        if request.outputs is not None:
            _check_outputs(request.outputs)
        tensor = _the_input(request.inputs)
        shape_HWC = self._target.classifier.artifact.image.shape_HWC
        rows = self._engine.max_request_rows
        if tensor.datatype == "UINT8":
            self._submit(read_pixels(tensor, shape_HWC, rows))
        elif tensor.datatype == "BYTES":
            self._decode(read_images(tensor, rows))
        else:
            raise InvalidInputError(
                f'input "{INPUT}": expected UINT8 {[-1, *shape_HWC]}, or BYTES [-1] of encoded '
                f"images, got {tensor.datatype} {tensor.shape}"
            )

    def cancel(self) -> None:
        """Forget the call: its client left."""
        self._is_cancelled = True
        if self.job is not None:
            self._target.batcher.cancel(self.job)

    def _decode(self, images: list[bytes]) -> None:
        batcher = self._target.batcher
        if sum(map(self._pixels, images, range(len(images)))) <= INLINE_PIXELS:
            batcher.admit(len(images), self._deadline)
            rows, seconds = self._decode_all(images)
            self._observe_decode(seconds, len(images))
            self._submit(rows)
            return
        batcher.reserve(len(images), self._deadline)
        self._engine.decoders.submit(self._decode_on_thread, images)

    def _pixels(self, image: bytes, position: int) -> int:
        try:
            return self._target.classifier.pixels(image)
        except ServiceError as error:
            raise _in_row(error, position) from None

    def _decode_all(self, images: list[bytes]) -> tuple[list[Pixels], float]:
        """Decode every image, or raise what is wrong with the first bad one; on any thread."""
        started = time.monotonic()
        decode_sized = self._target.classifier.decode_sized
        rows: list[Pixels] = []
        for position, image in enumerate(images):
            try:
                rows.append(decode_sized(image))
            except ServiceError as error:
                raise _in_row(error, position) from None
        return rows, time.monotonic() - started

    def _decode_on_thread(self, images: list[bytes]) -> None:
        rows: list[Pixels] = []
        seconds, error = 0.0, None
        try:
            rows, seconds = self._decode_all(images)
        except ServiceError as refused:
            error = refused
        except Exception as bug:  # a decoder's bug must not take the request's answer along
            error = DecodeError(f"image: could not be decoded: {type(bug).__name__}")
        self._engine.loop.call_soon_threadsafe(
            self._back_on_loop, rows, error, seconds, len(images)
        )

    def _back_on_loop(
        self, rows: list[Pixels], error: ServiceError | None, seconds: float, places: int
    ) -> None:
        self._target.batcher.release(places)
        if self._is_cancelled:
            return
        try:
            if error is not None:
                raise error
            self._observe_decode(seconds, places)
            self._submit(rows)
        except ServiceError as refused:
            self._finish(refused)

    def _observe_decode(self, seconds: float, images: int) -> None:
        for _ in range(images):
            self._target.metrics.decode.observe(seconds / images)

    def _submit(self, rows: Rows) -> None:
        self.job = self._target.batcher.submit(rows, self._deadline, self._collect)

    def _collect(self, job: Job) -> None:
        """Take the rows of this request out of the batches they were run in."""
        if job.error is None:
            asked = self.request.outputs
            wanted = [RequestedOutput(name) for name in OUTPUTS] if asked is None else asked
            labels = self._target.classifier.artifact.labels
            for output in wanted:
                values_NK = _values(job, output.name)
                if not output.top:
                    shape = list(values_NK.shape)
                    self.outputs.append(OutputTensor(output.name, "FP32", shape, values_NK))
                    continue
                order_NT = rank(values_NK, min(output.top, len(labels)))
                strings = classify(values_NK, order_NT, labels)
                shape = list(order_NT.shape)
                self.outputs.append(OutputTensor(output.name, "BYTES", shape, strings))
        self._finish(job.error)

    def _finish(self, error: ServiceError | None) -> None:
        self.error = error
        on_done, self._on_done = self._on_done, _nobody  # no cycle is left for the collector
        on_done(self)


def _nobody(_call: InferCall) -> None:
    """Take the place of a call's callback once it was called."""


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
    if not outputs:
        raise InvalidInputError(f"outputs: expected {' or '.join(OUTPUTS)}, or no list, got none")


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


def _in_row(error: ServiceError, position: int) -> ServiceError:
    """Say which image of the tensor is at fault, in an error of the same class."""
    return type(error)(f'input "{INPUT}" [{position}]: {error.message}')
