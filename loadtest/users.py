"""Locust's users: one class a protocol, each sends calls and records what comes back.

A user of a closed loop sends its next call when the last answer is there. With ``arrivals`` there
is one user a class, who sends at moments that are fixed beforehand, whatever the answers do, and
counts from those moments. Runs in locust's processes: the standard library is patched there.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, User, task

from loadtest.calls import Call, Kind, judge
from loadtest.samples import FAILED, Recorder


@dataclass(slots=True)
class Course:
    """What all users of a process share; ``locustfile`` fills it in.

    Attributes:
        calls: All that may be sent; each class takes those of its kind.
        start_at: Of ``time.monotonic``; times are counted from it.
        due: Moments of the arrivals, seconds after the start; empty: a closed loop.
        recorder: Where answers are written down.
        grpc_address: ``host:port`` of V2 over gRPC.
        has_tls: Whether the service speaks TLS.
        timeout_s: After which an answer is given up.
    """

    calls: list[Call] = field(default_factory=list)
    start_at: float = 0.0
    due: list[float] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    grpc_address: str = ""
    has_tls: bool = False
    timeout_s: float = 30.0


COURSE = Course()


class CallingUser(User):  # type: ignore[misc]  # untyped there
    """Sends calls of its kind, one after the other or when they are due."""

    abstract = True
    kind: ClassVar[Kind | None] = None

    def on_start(self) -> None:
        """Find the calls of this user's kind."""
        self._calls = [call for call in COURSE.calls if self.kind in (None, call.kind)]
        self._due: Iterator[float] = iter(COURSE.due)
        self._pool = Pool()

    @task
    def take_turn(self) -> None:
        """Send one call, or wait until the next arrival and send it beside all others."""
        call = random.choice(self._calls)
        if not COURSE.due:
            self.send(call, time.monotonic(), 0.0)
            return
        after_s = next(self._due, None)
        if after_s is None:
            self._pool.join()
            self.environment.runner.quit()
            return
        intended_at = COURSE.start_at + after_s
        gevent.sleep(max(0.0, intended_at - time.monotonic()))
        self._pool.spawn(self.send, call, intended_at, time.monotonic() - intended_at)

    def send(self, call: Call, intended_at: float, late_s: float) -> None:
        """Send a call and record its answer.

        Args:
            call: What.
            intended_at: Of ``time.monotonic``, the moment that latency counts from.
            late_s: How long after that it is now.
        """
        raise NotImplementedError

    def record(
        self, call: Call, intended_at: float, late_s: float, outcome: int, why: str
    ) -> float:
        """Write an answer down and return its latency in ms."""
        latency_s = time.monotonic() - intended_at
        COURSE.recorder.add(
            call.kind, call.rows, intended_at - COURSE.start_at, late_s, latency_s, outcome
        )
        if why:
            COURSE.recorder.causes[why] += 1
        return latency_s * 1e3


class HttpUser(CallingUser, FastHttpUser):  # type: ignore[misc]
    """Sends calls over HTTP, on one connection in a closed loop, on as many as open ones take."""

    abstract = True
    connection_timeout = 10.0
    insecure = False  # certificates are checked, against SSL_CERT_FILE if it is set

    def __init__(self, environment: Any) -> None:
        self.concurrency = 4096 if COURSE.due else 1
        self.network_timeout = COURSE.timeout_s
        super().__init__(environment)

    def send(self, call: Call, intended_at: float, late_s: float) -> None:
        """Send a call and record its answer."""
        with self.client.request(
            call.method,
            call.path,
            name=call.kind,
            data=call.body,  # type: ignore[arg-type]  # bytes are sent as they are
            headers=dict(call.headers),
            catch_response=True,
        ) as response:
            status = response.status_code
            if status:
                headers = {name.lower(): value for name, value in response.headers.items()}
                outcome, why = judge(call, status, headers, response.content or b"")
                COURSE.recorder.note_wait(headers)
            else:
                outcome, why = FAILED, f"no answer: {type(response.error).__name__}"
            latency_ms = self.record(call, intended_at, late_s, outcome, why)
            response.request_meta["response_time"] = latency_ms  # from the intended start
            if why:
                response.failure(why)
            else:
                response.success()


class RawUser(HttpUser):
    """One encoded image a request, as its body."""

    kind = "raw"


class MultipartUser(HttpUser):
    """N files a request, as a form."""

    kind = "multipart"


class V2JsonUser(HttpUser):
    """N rows a request, as JSON of the Open Inference Protocol."""

    kind = "v2-json"


class V2BinaryUser(HttpUser):
    """N rows a request, as a binary tensor of the Open Inference Protocol."""

    kind = "v2-binary"


class MixedUser(HttpUser):
    """Everything that is there, one model and form after the other at random."""

    def on_start(self) -> None:
        """Take all calls over HTTP."""
        super().on_start()
        self._calls = [call for call in self._calls if call.kind not in ("grpc", "nothing")]


class NothingUser(HttpUser):
    """Asks a route that does nothing: what comes of it is the client's own limit."""

    kind = "nothing"
