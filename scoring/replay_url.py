"""Replay at a service: recorded requests are sent at the times of their recording, and compared.

An answer of ``/predict`` with all its labels has every bit of the probabilities. A request of
several rows is sent row by row; pixels are sent as a PNG.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.artifact import ModelArtifact
from scoring.recorded import Wanted, image_of
from scoring.remote import RemoteError, authorization, connect
from scoring.replay import Answer, Pair, choose, recorded_answer
from scoring.rows import Truth
from service.record.reading import Member, RecordingError, read, read_entry

# Requests that are out at once; a service that is slower than this many gets them late.
_OUT = 64
_TIMEOUT_S = 60.0


class _Planned(NamedTuple):
    """One row to send: when it was recorded, and where it lies."""

    time: float
    path: Path
    members: tuple[Member, ...]
    truth: Truth


@dataclass(frozen=True, slots=True)
class Service:
    """Where rows are sent.

    Attributes:
        url: ``http://host:port``.
        artifact: The version that is asked there.
        speed: Times as fast as recorded.
    """

    url: str
    artifact: ModelArtifact
    speed: float = 1.0


class Late:
    """How late rows were sent, seconds: the client or the service could not keep up."""

    def __init__(self) -> None:
        self.most_s = 0.0


def replay_at(
    service: Service,
    recording: Path,
    wanted: Wanted,
    late: Late,
    on_row: Callable[[int], None] = lambda _: None,
) -> Iterator[Pair]:
    """Send the answered rows of a recording to a service.

    Args:
        service: Where to, and how fast.
        recording: A folder of shards, or one tar.
        wanted: Which rows.
        late: Gets the largest delay.
        on_row: Called with the number of rows so far.

    Yields:
        A pair for each row, in no order.

    Raises:
        RecordingError: There is no recording.
        RemoteError: There is no service, or it does not serve the version.
        ScoreError: The answers cannot be compared.
    """
    planned = sorted(_plan(recording, wanted), key=lambda each: each.time)
    if not planned:
        return
    local = threading.local()
    begun, first = time.monotonic(), planned[0].time
    out: set[Future[Pair]] = set()
    done = 0
    with ThreadPoolExecutor(_OUT, "replay") as pool:
        try:
            for each in planned:
                due = begun + (each.time - first) / service.speed
                time.sleep(max(0.0, due - time.monotonic()))
                while len(out) >= _OUT:
                    finished, out = wait(out, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
                late.most_s = max(late.most_s, time.monotonic() - due)
                out.add(pool.submit(_send, local, service, each))
                done += 1
                on_row(done)
            for future in out:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _plan(recording: Path, wanted: Wanted) -> Iterator[_Planned]:
    for entry in read(recording, with_content=False):
        sample = entry.sample
        truth = wanted.truths.get((sample.id, sample.row))
        if not (sample.is_answered and sample.ending and wanted.has(sample)):
            continue
        if not (wanted.is_labelled and truth is None):
            yield _Planned(float(sample.document["time"]), entry.path, entry.members, truth)


def _send(local: threading.local, service: Service, planned: _Planned) -> Pair:
    """Send one row on this thread's connection; whoever calls it measures."""
    sample = read_entry(planned.path, planned.members).sample
    artifact = service.artifact
    before = recorded_answer(sample, len(artifact.labels))
    try:
        image = image_of(sample)
    except RecordingError as error:
        return Pair(sample, planned.truth, before, None, str(error))
    begun = time.perf_counter()
    status, document = _post(local, service, image)
    seconds = time.perf_counter() - begun
    if status in (401, 404):
        raise RemoteError(f"{service.url}: {document.get('error', status)}")
    result = document["results"][0] if status == 200 else document
    if "predictions" not in result:
        return Pair(sample, planned.truth, before, None, f"status {status}: {result.get('error')}")
    probabilities_K = np.zeros(len(artifact.labels), np.float32)
    for prediction in result["predictions"]:
        probabilities_K[prediction["index"]] = prediction["probability"]
    after = Answer(probabilities_K, choose(artifact, probabilities_K), seconds)
    return Pair(sample, planned.truth, before, after)


def _post(local: threading.local, service: Service, image: bytes) -> tuple[int, dict[str, Any]]:
    artifact = service.artifact
    connection, prefix = getattr(local, "connection", None) or connect(service.url, _TIMEOUT_S)
    local.connection = connection, prefix
    path = f"{prefix}/models/{artifact.name}/versions/{artifact.version}/predict"
    headers = {"Content-Type": "application/octet-stream"} | authorization()
    try:
        connection.request("POST", f"{path}?top={len(artifact.labels)}", image, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        local.connection = None
        connection.close()
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RemoteError(
            f"{service.url}: expected a running service, got: {reason}; "
            "start one with `foveal serve`"
        ) from None
