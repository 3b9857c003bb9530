"""The corpus against a real server, and against the batch scorer: nothing in it harms either."""

import csv
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.corpus import bombs, everything, flipped, good, polyglots, truncated
from tests.server import ROOT, RunningServer, Wire, post, running_server

pytestmark = pytest.mark.e2e

GROWTH_MIB = 50
# A request for the right or a wrong type of media gets one of these; nothing is the server's fault.
EXPECTED = {200, 400, 413, 415}
V2 = "/v2/models/tiny/infer"
FORM = "Content-Type: multipart/form-data; boundary=edge"


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with running_server(tiny_repository, tmp_path_factory.mktemp("hostile")) as running:
        yield running


def requests(image: bytes) -> Iterator[bytes]:
    """The three ways by which an encoded image reaches a model over HTTP."""
    yield post("/predict", image)
    part = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    yield post("/predict", part + image + b"\r\n--edge--\r\n", FORM)
    tensor = b'{"inputs":[{"name":"images","datatype":"BYTES","shape":[1],"parameters":'
    head = tensor + b'{"binary_data_size":%d}}]}' % (len(image) + 4)
    body = head + len(image).to_bytes(4, "little") + image
    yield post(V2, body, f"Inference-Header-Content-Length: {len(head)}")


def test_the_corpus_harms_no_server(server: RunningServer) -> None:
    picture = good()["png-grey"]
    with Wire(server) as wire:
        for request in requests(picture):
            assert wire.send(request).answer().status == 200
        for name, image in itertools.chain(bombs(1), polyglots()):  # once, to reach full size
            for request in requests(image):
                assert wire.send(request).answer().status in EXPECTED, name
        before, processes = server.rss_mib(), server.workers()
        statuses: Counter[int] = Counter()
        for number, (name, image) in enumerate(everything()):
            ways = list(requests(image)) if number % 20 == 0 else [post("/predict", image)]
            for request in ways:
                answer = wire.send(request).answer()
                assert answer.status in EXPECTED, (name, answer)
                statuses[answer.status] += 1
            if number % 100 == 0:
                assert wire.send(post("/predict", picture)).answer().status == 200, name
    assert server.workers() == processes, server.log
    assert server.rss_mib() - before < GROWTH_MIB
    assert min(statuses[200], statuses[400], statuses[413]) > 0, statuses


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
