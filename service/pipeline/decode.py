"""The decode stage: the encoded images of one request become rows of a model.

    encoded image -> size in its header -> admission to the queue -> decode -> row

Small images are decoded on the event loop, large ones on threads. The work starts only once the
queue has room for the rows and can run them before their deadline. Every protocol decodes here;
what a request does with its rows is the protocol's concern.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from models.image import Pixels
from service.errors import DecodeError, ServiceError
from service.pipeline.alarm import Loop
from service.pipeline.classifier import Classifier

# A request of up to this many pixels is decoded on the loop: about 0.2 ms, as much as handing it to
# a thread and back costs under load.
INLINE_PIXELS = 128 * 128

Errors = list[ServiceError | None]
Take = Callable[[list[Pixels], Errors], None]
"""Gets the rows of the good images, in order, and an error or None for each image."""


class DecodeStage:
    """Decodes images for one model.

    Args:
        classifier: The model; it must be started.
        loop: The loop that all requests arrive on.
        threads: Where large images are decoded.
        observe: Called on the loop with the seconds that one image took.
    """

    __slots__ = ("_admit", "_batcher", "_decode", "_loop", "_observe", "_pixels", "_threads")

    def __init__(
        self,
        classifier: Classifier,
        loop: Loop,
        threads: Executor,
        observe: Callable[[float], None],
    ) -> None:
        self._batcher = classifier.batcher
        self._admit = classifier.batcher.admit
        self._pixels = classifier.pixels
        self._decode = classifier.decode_sized
        self._loop = loop
        self._threads = threads
        self._observe = observe

    def decode_small(self, encoded: bytes, deadline: float) -> Pixels | None:
        """Decode one small image now: the path of most requests, without lists or callbacks.

        Args:
            encoded: The image.
            deadline: When its row must have been run, seconds of the batcher's clock.

        Returns:
            uint8 [H, W, C], 0-255; None if the image is too large for the loop: use ``decode``.

        Raises:
            ServiceError: The image or the queue refuses it.
        """
        if self._pixels(encoded) > INLINE_PIXELS:
            return None
        self._admit(1, deadline)  # before the work of decoding
        started = time.monotonic()
        row_HWC = self._decode(encoded)
        self._observe(time.monotonic() - started)
        return row_HWC

    def decode(
        self, images: Sequence[bytes], deadline: float, take: Take, *, stops_at_error: bool = False
    ) -> None:
        """Decode the images of one request, now or on a thread.

        Args:
            images: At least one.
            deadline: When their rows must have been run, seconds of the batcher's clock.
            take: Called once, on the loop, even if the client has left meanwhile; must not raise.
            stops_at_error: Whether one bad image spoils the request: ``take`` then gets the error
                of the first one, and nothing after it is decoded.

        Raises:
            ServiceError: The queue refuses the request; ``take`` is not called.
        """
        errors: Errors = [None] * len(images)
        pixels = 0
        for position, encoded in enumerate(images):
            try:
                pixels += self._pixels(encoded)
            except ServiceError as error:
                errors[position] = error.detached()
                if stops_at_error:
                    take([], errors)
                    return
        if pixels <= INLINE_PIXELS:
            self._admit(len(images), deadline)
            rows, seconds = self._decode_all(images, errors, stops_at_error)
            self._pass_on(rows, errors, seconds, take)
            return
        self._batcher.reserve(len(images), deadline)
        self._threads.submit(self._decode_on_thread, images, errors, take, stops_at_error)

    def _decode_all(
        self, images: Sequence[bytes], errors: Errors, stops_at_error: bool
    ) -> tuple[list[Pixels], list[float]]:
        """Decode every image that has no error yet, and note new errors; runs on any thread.

        Returns:
            The rows, and the seconds that each took.
        """
        rows: list[Pixels] = []
        seconds: list[float] = []
        for position, encoded in enumerate(images):
            if errors[position] is not None:
                continue
            started = time.monotonic()
            try:
                rows.append(self._decode(encoded))
            except ServiceError as error:
                errors[position] = error.detached()
            except Exception as error:  # a bug in a decoder must not lose the request's answer
                message = f"image: could not be decoded: {type(error).__name__}"
                errors[position] = DecodeError(message)
            else:
                seconds.append(time.monotonic() - started)
                continue
            if stops_at_error:
                break
        return rows, seconds

    def _decode_on_thread(
        self, images: Sequence[bytes], errors: Errors, take: Take, stops_at_error: bool
    ) -> None:
        rows, seconds = self._decode_all(images, errors, stops_at_error)
        self._loop.call_soon_threadsafe(self._back_on_loop, rows, errors, seconds, take)

    def _back_on_loop(
        self, rows: list[Pixels], errors: Errors, seconds: list[float], take: Take
    ) -> None:
        self._batcher.release(len(errors))
        self._pass_on(rows, errors, seconds, take)

    def _pass_on(
        self, rows: list[Pixels], errors: Errors, seconds: list[float], take: Take
    ) -> None:
        for image_s in seconds:
            self._observe(image_s)
        take(rows, errors)
