"""One inference of V2 over gRPC: expand the message, read it, infer, write the answer.

Its counterpart is ``http_infer``; ``infer`` runs the request.
"""

import asyncio
import time
from typing import Any

from service.errors import DeadlineError, ServiceError
from service.protocols import compression
from service.protocols.engine import Engine, Target
from service.protocols.limits import Held
from service.protocols.v2.infer import InferCall
from service.protocols.v2.messages import (
    InferMessage,
    coding_of,
    open_message,
    read_message,
    write_message,
)

PROTOCOL = "v2_grpc"


class GrpcInfer:
    """One inference over gRPC.

    Args:
        engine: What all protocols share.
        max_message_bytes: Largest message once it is expanded.
        request_id: As ``X-Request-Id`` is over HTTP.

    Attributes:
        id: Of the request, empty until it is read.
    """

    __slots__ = ("_engine", "_held", "_max_message_bytes", "_request_id", "_target", "id")

    def __init__(self, engine: Engine, max_message_bytes: int, request_id: bytes = b"") -> None:
        self._request_id = request_id
        self._engine = engine
        self._max_message_bytes = max_message_bytes
        self._held = Held(engine.inflight)
        self._target: Target | None = None
        self.id = ""

    async def answer(self, raw: bytes, time_remaining_s: float | None) -> Any:
        """Answer one request.

        Args:
            raw: A ModelInferRequest as received.
            time_remaining_s: Until its client's deadline; None: it has none.

        Returns:
            A ModelInferResponse.

        Raises:
            ServiceError: The request is refused, or failed.
        """
        received_at = time.monotonic()
        default_s = self._engine.request_timeout_s
        limit_s = default_s if time_remaining_s is None else time_remaining_s
        try:
            # Neither the message nor what it expands to stays in a variable here.
            call, target = await self._run(await self._open(raw, limit_s), received_at, limit_s)
        except ServiceError as error:
            self._held.give()
            if self._target is None:
                self._engine.meters.count_refusal(PROTOCOL, error.status)
            else:
                self._target.count_failure(PROTOCOL, error, received_at, self._request_id)
            raise error.detached() from None
        except Exception:  # a bug: what was counted must not stay counted
            self._held.give()
            raise
        artifact = target.classifier.artifact
        response = write_message(call, artifact.name, artifact.version)
        target.metrics.count_request(PROTOCOL, 200, time.monotonic() - received_at)
        keep = self._engine.keep
        if keep is not None and call.job is not None:
            keep(self._request_id, call.job)
        call.record(PROTOCOL, self._request_id, received_at)
        return response

    async def _open(self, raw: bytes, limit_s: float) -> InferMessage:
        self._held.take(len(raw))
        coding = coding_of(raw)
        if coding:
            try:
                async with asyncio.timeout(limit_s):
                    raw = await self._expand(raw, coding)
            except TimeoutError:
                raise DeadlineError(
                    "the request's deadline passed while its body was read; retry later"
                ) from None
        return open_message(raw, self._engine.max_request_rows)

    async def _expand(self, raw: bytes, coding: bytes) -> bytes:
        loop, threads = asyncio.get_running_loop(), self._engine.threads
        limit = self._max_message_bytes
        try:
            if compression.states_size(coding):
                size = compression.expanded_bytes(raw, coding, limit)
            else:
                size = await loop.run_in_executor(
                    threads, compression.expanded_bytes, raw, coding, limit
                )
            self._held.take(size)
            return await loop.run_in_executor(
                threads, compression.decompress, raw, coding, limit, size
            )
        except asyncio.CancelledError:  # the client left
            self._held.give()
            raise

    async def _run(
        self, message: InferMessage, received_at: float, limit_s: float
    ) -> tuple[InferCall, Target]:
        """Infer and wait for the outputs; a client that leaves cancels this coroutine."""
        engine, head = self._engine, message.head
        self.id = head.id
        target = engine.find(head.model_name, head.model_version)
        self._target = target = target.choose(head.id.encode())
        target.batcher.admit(1, received_at + limit_s)  # before its tensors are read
        done = asyncio.Event()
        request = read_message(message, engine.limits.max_values)
        call = InferCall(engine, target, request, lambda _call: done.set(), self._held)
        call.begin(received_at, limit_s)
        del message  # images were copied, pixels are held by the job
        try:
            await done.wait()
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.error is not None:
            raise call.error.detached()
        return call, target
