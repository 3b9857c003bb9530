"""Fuzz a running service: mutated heads, forms, V2 over HTTP and over gRPC.

Run ``make fuzz``, or ``python -m tests.hostile.fuzz_requests --count 1000000``. It starts the
service itself. A failure is a status that blames the server, an answer later than ``DEADLINE_S``,
a connection that neither answers nor ends, a worker that ends, or memory that grows.
"""

import argparse
import base64
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
from tritonclient.grpc import service_pb2 as pb

from tests.hostile.corpus import good
from tests.hostile.mutate import mutate
from tests.server import RunningServer, Wire, free_port, post, running_server

ROOT = Path(__file__).resolve().parents[2]
MODEL = "fashion-fcnn"
DEADLINE_S = 30.0
GROWTH_MIB = 50
WARM_UP = 2000
CHECK_EVERY = 5000
# 501 and 505 answer what a client asks of the protocol, RFC 9110, 15.6.2 and 15.6.6.
CLIENT_ERRORS = {501, 505}
SERVER_CODES = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "ABORTED", "CANCELLED"}


@dataclass
class Tally:
    """What became of the requests of one kind; sizes are in MiB."""

    kind: str
    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    rss_before: float = 0.0
    rss_after: float = 0.0
    failures: list[str] = field(default_factory=list)


def picture() -> bytes:
    """Return an image that every model takes."""
    return good()["png-grey"]


def heads() -> list[bytes]:
    """Return whole requests whose heads are mutated."""
    image = picture()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image)
    start = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
    return [
        post("/predict?top=2", image, "Content-Type: image/png", "Accept: */*"),
        post(f"/models/{MODEL}/predict", image, "X-Request-Id: 7", "X-Request-Timeout-Ms: 900"),
        start + b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
        start + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        post("/predict", image, "Expect: 100-continue", "Content-Encoding: gzip"),
        b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n",
        b"GET /v2/models/fashion-fcnn HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HEAD /readyz HTTP/1.1\r\nHost: here\r\n\r\nGET /livez HTTP/1.1\r\nHost: here\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: here\r\nOrigin: http://there\r\n\r\n",
        b"PUT http://here/models/fashion-fcnn/traffic HTTP/1.1\r\nHost: here\r\n"
        b"Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}",
    ]


BOUNDARY = b"----edge"


def forms() -> list[bytes]:
    """Return bodies of forms with the boundary ``BOUNDARY``."""
    image = picture()
    part = b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n'
    file = part % (BOUNDARY, image)
    text = b'--%s\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n' % BOUNDARY
    end = b"--%s--\r\n" % BOUNDARY
    return [file + end, file + file + end, text + file + end, file + text + text + end]


def documents() -> list[bytes]:
    """Return bodies of V2's JSON."""
    rows = np.zeros((2, 28, 28, 1), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 28, 28, 1]}
    texts = [base64.b64encode(picture()).decode()] * 2
    encoded = {"name": "images", "datatype": "BYTES", "shape": [2], "data": texts}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    return [
        orjson.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}),
        orjson.dumps({"inputs": [{**tensor, "data": rows.tolist()}], "outputs": outputs}),
        orjson.dumps({"id": "7", "inputs": [encoded], "parameters": {"priority": 1}}),
    ]


def binaries() -> list[bytes]:
    """Return bodies of V2's binary extension: the header's length, four digits, then both."""
    rows = bytes(28 * 28)
    image = picture()
    raw: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 1]}
    element = len(image).to_bytes(4, "little") + image
    encoded: dict[str, Any] = {"name": "images", "datatype": "BYTES", "shape": [1]}
    bodies = []
    for tensor, behind in ((raw, rows), (encoded, element)):
        tensor["parameters"] = {"binary_data_size": len(behind)}
        text = orjson.dumps({"inputs": [tensor]})
        bodies.append(b"%04d" % len(text) + text + behind)
    return bodies


def messages() -> list[bytes]:
    """Return serialized gRPC requests to infer."""
    raw = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(28 * 28)])
    raw.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28, 1])
    typed = pb.ModelInferRequest(model_name=MODEL, id="7")
    tensor = typed.inputs.add(name="images", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(picture())
    typed.outputs.add(name="logits").parameters["classification"].int64_param = 2
    return [raw.SerializeToString(), typed.SerializeToString()]


class Http:
    """Sends bodies over one connection, and what has a head of its own over one each."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._wire: Wire | None = None

    def form(self, body: bytes) -> str:
        """Post a form to /predict."""
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}"
        return self._ask(post("/predict", body, kind))

    def document(self, body: bytes) -> str:
        """Post JSON to V2."""
        return self._ask(post(f"/v2/models/{MODEL}/infer", body))

    def binary(self, body: bytes) -> str:
        """Post V2's binary extension."""
        length = body[:4].decode("ascii", "replace") if body[:4].isdigit() else str(len(body) // 2)
        header = f"Inference-Header-Content-Length: {length}"
        return self._ask(post(f"/v2/models/{MODEL}/infer", body[4:], header))

    def _ask(self, request: bytes) -> str:
        if self._wire is None:
            self._wire = Wire(self._server, timeout_s=DEADLINE_S)
        answer = self._wire.send(request).answer()
        if answer.headers.get("connection") == "close":
            self._wire.close()
            self._wire = None
        return str(answer.status)

    def head(self, request: bytes) -> str:
        """Send bytes over a connection of their own; return the statuses of all answers."""
        with socket.create_connection(("127.0.0.1", self._server.port), DEADLINE_S) as stream:
            received = b""
            try:
                stream.sendall(request)
                stream.shutdown(socket.SHUT_WR)
                while data := stream.recv(65536):
                    received += data
            except ConnectionResetError:
                pass
        lines = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
        return ",".join(sorted({line.decode("latin-1") for line in lines})) or "closed"


class Grpc:
    """Sends serialized messages, whatever they hold."""

    def __init__(self, server: RunningServer) -> None:
        channel = grpc.insecure_channel(server.grpc_address)
        self._infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def message(self, body: bytes) -> str:
        """Call ModelInfer with these bytes."""
        try:
            self._infer(body, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            name: str = error.code().name  # type: ignore[attr-defined]  # grpc has no stubs
            return name
        return "OK"


def is_failure(answer: str) -> bool:
    """Return whether an answer blames the server."""
    if answer in SERVER_CODES:
        return True
    statuses = [int(word) for word in answer.split(",") if word.isdigit()]
    return any(status >= 500 and status not in CLIENT_ERRORS for status in statuses)


def fuzz(
    kind: str, seeds: list[bytes], ask: Callable[[bytes], str], server: RunningServer, given: Any
) -> Tally:
    """Send ``given.count`` mutated requests of one kind."""
    tally = Tally(kind)
    before = server.workers()
    for number in range(given.count):
        chance = random.Random(f"{given.seed}/{kind}/{number}")
        body = mutate(chance, chance.choice(seeds), chance.choice(seeds))
        started = time.monotonic()
        try:
            answer = ask(body)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
            tally.failures.append(f"{number}: {answer}")
        spent_ms = (time.monotonic() - started) * 1e3
        tally.requests += 1
        tally.answers[answer] += 1
        tally.slowest_ms = max(tally.slowest_ms, spent_ms)
        if is_failure(answer):
            tally.failures.append(f"{number}: {answer}")
        if tally.requests == min(WARM_UP, given.count // 2):
            tally.rss_before = server.rss_mib()
        if number % CHECK_EVERY == 0:
            answer = Http(server).document(documents()[0])
            assert answer == "200", f"{kind} {number} {answer} {server.log[-3000:]}"
            if server.workers() != before or len(tally.failures) > 100:
                tally.failures.append(f"{number}: given up, or a worker ended")
                break
    tally.rss_after = server.rss_mib()
    if tally.rss_after - tally.rss_before > GROWTH_MIB:
        tally.failures.append("memory grew")
    return tally


def table(tallies: list[Tally]) -> str:
    """Return a Markdown table, a row for each kind."""
    rows = [
        "| kind | requests | answers | slowest, ms | grew, MiB | failures |",
        "|---|---|---|---|---|---|",
    ]
    for tally in tallies:
        answers = ", ".join(f"{name} {n:,}" for name, n in tally.answers.most_common(8))
        grown = tally.rss_after - tally.rss_before
        rows.append(
            f"| {tally.kind} | {tally.requests:,} | {answers} | {tally.slowest_ms:.0f} | "
            f"{grown:.1f} | {len(tally.failures)} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the command line; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1_000_000, help="requests of each kind")
    parser.add_argument("--seed", type=int, default=0, help="first number of every request's seed")
    parser.add_argument("--kinds", default="head,form,json,binary,grpc", help="with commas")
    parser.add_argument("--json", type=Path, help="file for all figures and failures")
    given = parser.parse_args()
    tallies = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(
            ROOT / "models", Path(folder), grpc_port=free_port(), receive_timeout_s=5
        ) as server,
    ):
        http, remote = Http(server), Grpc(server)
        kinds: dict[str, tuple[list[bytes], Callable[[bytes], str]]] = {
            "head": (heads(), http.head),
            "form": (forms(), http.form),
            "json": (documents(), http.document),
            "binary": (binaries(), http.binary),
            "grpc": (messages(), remote.message),
        }
        for kind in given.kinds.split(","):
            tally = fuzz(kind, *kinds[kind], server, given)
            print("\n".join([*tally.failures[:20], table([tally]).splitlines()[2]]), flush=True)
            tallies.append(tally)
    print(table(tallies))
    if given.json:
        given.json.write_text(json.dumps([asdict(tally) for tally in tallies], indent=1) + "\n")
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
