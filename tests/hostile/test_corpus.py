"""The corpus against a real server, and against the batch scorer: nothing in it harms either."""

import contextlib
import csv
import itertools
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.hostile.corpus import bombs, everything, flipped, good, polyglots, truncated
from tests.loop_watch import LONGEST_S, LoopClock, held_s, probed_s, shortest_of
from tests.server import ROOT, RunningServer, free_port, post, running_server
from tests.tiny import SIDE

pytest.importorskip("grpc")

from tests.hostile import requests as made
from tests.hostile.fuzz_requests import (
    WINDOW,
    Answers,
    Calls,
    Connections,
    Pipeline,
    is_failure,
    mutant,
)

pytestmark = pytest.mark.e2e

GROWTH_MIB = 50
MUTANTS = 150  # requests of each kind
MODEL = "tiny"
LARGE_BYTES = 64 << 10

Request = Callable[[bytes], bytes]
Item = tuple[str, str, bytes]
"""How a request is sent (http, head: on a connection of its own, grpc), its name, its bytes."""


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("hostile")
    with running_server(tiny_repository, folder, grpc_port=free_port()) as running:
        yield running


def image_requests(image: bytes) -> Iterator[bytes]:
    """The three ways by which an encoded image reaches a model over HTTP."""
    yield post("/predict", image)
    part = b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    part %= made.BOUNDARY
    yield made.form(part + image + b"\r\n--%s--\r\n" % made.BOUNDARY)
    tensor = b'{"inputs":[{"name":"images","datatype":"BYTES","shape":[1],"parameters":'
    head = tensor + b'{"binary_data_size":%d}}]}' % (len(image) + 4)
    body = b"%04d" % len(head) + head + len(image).to_bytes(4, "little") + image
    yield made.binary(body, MODEL)


class Clients:
    """Sends one request after the other and notes what held the loop.

    Attributes:
        answers: How often each status or code came.
        slow: What may have held the loop for longer than ``LONGEST_S``, and is to be asked again.
    """

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._clock = LoopClock(server)
        self._pipeline, self._calls = Pipeline(server), Calls(server)
        self._asks = {
            "http": self._pipeline.ask,
            "head": Connections(server).ask,
            "grpc": self._calls.ask,
        }
        self.answers: Counter[str] = Counter()
        self.slow: list[Item] = []

    def close(self) -> None:
        """Close all connections."""
        self._pipeline.close()
        self._calls.close()

    def send(self, corpus: Iterable[Item]) -> None:
        """Send everything, small requests in windows; no answer may blame the server."""
        for (_, is_large), same in itertools.groupby(
            corpus, lambda item: (item[0], len(item[2]) > LARGE_BYTES)
        ):
            while window := list(itertools.islice(same, 1 if is_large else WINDOW)):
                self._measure(window)

    def _measure(self, window: list[Item]) -> None:
        if held_s(self._clock, lambda: self._exchange(window)) <= LONGEST_S:
            return
        if len(window) == 1:
            self.slow += window
            return
        for item in window:
            self._measure([item])

    def _exchange(self, window: list[Item]) -> None:
        answers: Answers = self._asks[window[0][0]]([request for _, _, request in window])
        for (_, name, _), (answer, _) in zip(window, answers, strict=True):
            assert not is_failure(answer), (name, answer)
            self.answers[answer] += 1

    def longest_s(self, item: Item) -> float:
        """Return the longest answer to another client meanwhile: the shortest of some rounds."""

        def measure() -> float:
            return probed_s(self._server, lambda: self._exchange([item]), self._clock.path)

        return shortest_of(40, measure)  # the machine is busy with other tests


def image_corpus() -> Iterator[Item]:
    """Every image once, a part of them in all ways, and good ones between."""
    picture = post("/predict", good()["png-grey"])
    for number, (name, image) in enumerate(everything()):
        ways = list(image_requests(image)) if number % 20 == 0 else [post("/predict", image)]
        for request in ways:
            yield "http", name, request
        if number % 100 == 0:
            yield "http", "good", picture


def request_corpus() -> Iterator[Item]:
    """Costly requests of each kind, and mutants of good ones."""
    document, binary = partial(made.document, model=MODEL), partial(made.binary, model=MODEL)
    forms = {name: made.form(body) for name, body in made.costly_forms()}
    kinds: list[tuple[str, str, list[bytes], Request, Iterable[tuple[str, bytes]]]] = [
        ("head", "head", made.heads(MODEL), bytes, made.costly_heads()),
        ("http", "form", made.forms(), made.form, forms.items()),
        ("http", "json", made.documents(SIDE), document, made.costly_documents(MODEL)),
        ("http", "binary", made.binaries(SIDE), binary, made.costly_binaries(MODEL)),
        ("grpc", "grpc", made.messages(MODEL, SIDE), bytes, made.costly_messages(MODEL)),
    ]
    for how, name, seeds, request, costly in kinds:
        for number in range(MUTANTS):
            body = mutant(random.Random(f"{name}/{number}"), name, seeds)
            yield how, f"{name} {number}", request(body)
        for what, whole in costly:
            yield how, f"{name}: {what}", whole


@pytest.mark.thorough
def test_the_corpus_harms_no_server(server: RunningServer) -> None:
    with contextlib.closing(Clients(server)) as clients:
        _harms_no_server(server, clients)


def _harms_no_server(server: RunningServer, clients: Clients) -> None:
    odd = itertools.chain(bombs(1), polyglots())  # once, to reach full size
    clients.send(("http", name, way) for name, image in odd for way in image_requests(image))
    before, processes = server.rss_mib(), server.workers()
    clients.answers.clear()
    clients.send(itertools.chain(image_corpus(), request_corpus()))
    assert server.workers() == processes, server.log
    deadline = time.monotonic() + 5  # what is free is returned a moment later
    while server.rss_mib() - before >= GROWTH_MIB:
        assert time.monotonic() < deadline, f"{before:.0f} MiB became {server.rss_mib():.0f}"
        time.sleep(0.2)
    assert min(clients.answers[status] for status in ("200", "400", "413", "OK")) > 0
    held = {item[1]: clients.longest_s(item) for item in clients.slow}
    assert {name: seconds for name, seconds in held.items() if seconds > LONGEST_S} == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every bomb and polyglot, every good image, and a part of the others."""
    root = tmp_path_factory.mktemp("images")
    every = itertools.chain(
        ((f"good/{name}", data) for name, data in good().items()),
        polyglots(),
        bombs(1),
        itertools.islice(truncated(), 0, None, 60),
        flipped(3),
    )
    for name, data in every:
        (root / name.replace("/", "-")).write_bytes(data)
    return root


def foveal(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: one that crashes is seen."""
    command = [sys.executable, str(ROOT / "foveal.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def test_score_ends_with_a_row_for_every_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    done = foveal("score", folder, "--model", "fashion-fcnn", "--out", out)
    assert done.returncode == 3, done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(folder.iterdir()))
    errors = [row for row in rows if row["error"]]
    assert 0 < len(errors) < len(rows)


def test_predict_ends_with_a_row_for_every_file(folder: Path) -> None:
    files = sorted(folder.iterdir())
    done = foveal("predict", *files, "--model", "fashion-fcnn")
    assert done.returncode == 3, done.stderr
    missing = [file.name for file in files if file.name not in done.stdout + done.stderr]
    assert not missing
