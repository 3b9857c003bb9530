"""Locust's user of V2 over gRPC, on Triton's client; needs the ``grpc`` extra.

gRPC's own threads know nothing of gevent: its calls would stop all users of a process, were it not
for grpcio's own adapter.
"""

import os

import grpc.experimental.gevent
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from loadtest.calls import Call, authorization, labels_of, triton_images
from loadtest.samples import EXPIRED, FAILED, REFUSED, RIGHT, WRONG
from loadtest.users import COURSE, CallingUser

_OUTCOMES = {"StatusCode.RESOURCE_EXHAUSTED": REFUSED, "StatusCode.DEADLINE_EXCEEDED": EXPIRED}


class GrpcUser(CallingUser):
    """N rows a request, over one channel."""

    kind = "grpc"

    def on_start(self) -> None:
        """Connect, and make a request of every call."""
        super().on_start()
        grpc.experimental.gevent.init_gevent()
        self._client = InferenceServerClient(
            COURSE.grpc_address,
            ssl=COURSE.has_tls,
            root_certificates=os.environ.get("SSL_CERT_FILE") if COURSE.has_tls else None,
        )
        self._headers = dict(authorization())
        self._inputs = {id(call): _inputs(call) for call in self._calls}

    def on_stop(self) -> None:
        """Close the channel."""
        self._client.close()

    def send(self, call: Call, intended_at: float, late_s: float) -> None:
        """Send a call and record its answer."""
        name, _, version = call.path.partition(":")
        outcome, why = RIGHT, ""
        try:
            answer = self._client.infer(
                name,
                self._inputs[id(call)],
                version,
                [InferRequestedOutput(call.output)],
                client_timeout=COURSE.timeout_s,
                headers=self._headers,
            )
            got = labels_of(answer.as_numpy(call.output), call.thresholds)
            if got != call.expected:
                outcome, why = WRONG, f"expected labels {call.expected}, got {got}"
        except InferenceServerException as error:
            outcome = _OUTCOMES.get(str(error.status()), FAILED)
            why = f"{error.status()}: {error.message()}"
        latency_ms = self.record(call, intended_at, late_s, outcome, why)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=call.kind,
            response_time=latency_ms,
            response_length=0,
            exception=RuntimeError(why) if why else None,
            context={},
        )


def _inputs(call: Call) -> list[InferInput]:
    images_NHWC = triton_images(call)
    tensor = InferInput("images", list(images_NHWC.shape), "UINT8")
    tensor.set_data_from_numpy(images_NHWC)
    return [tensor]
