"""A GPU that does no further work in a worker's process; its onnxruntime stands in for it."""

import time
from collections.abc import Iterator

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.faults.stalling import harmless_images, stalling_image
from tests.places import ROOT, Start, chosen
from tests.server import RunningServer, assert_error, free_port
from tests.tiny import assert_own_result, publish_tiny

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(chosen()[0] != "source", reason="the stand-in is put on the path"),
]

# Python runs it in every process that it starts. A white first pixel breaks CUDA for the process:
# that run and all later ones fail with onnxruntime's words, as after an illegal address.
STAND_IN = """
import onnxruntime

WORDS = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. "
    "Name:'Conv_0' Status Message: CUDA failure 700: an illegal memory access was encountered ; "
    "GPU=0 ; hostname=node ; file=/onnxruntime_src/cuda_call.cc ; line=129 ; "
    "expr=cudaStreamSynchronize(stream); "
)
run = onnxruntime.InferenceSession.run
broken = []


def run_or_fail(session, names, feed, options=None):
    if broken or feed["images"][:, 0, 0, 0].max() == 255:
        broken.append(1)
        raise RuntimeError(WORDS)
    return run(session, names, feed, options)


onnxruntime.InferenceSession.run = run_or_fail
"""
IMAGE = harmless_images(1)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "path").mkdir()
    (folder / "path/sitecustomize.py").write_text(STAND_IN)
    publish_tiny(folder / "models")
    variables = {"FOVEAL_WORKERS": "2", "PYTHONPATH": f"{folder / 'path'}:{ROOT}"}
    start = Start(folder / "models", folder, free_port(), 0, variables)
    running = RunningServer(start.port, start.open(folder / "log"), folder / "log")
    try:
        running.wait_ready()
        wait_for(running, "ready after", 2)
        yield running
    finally:
        running.stop()


def wait_for(server: RunningServer, text: str, times: int) -> None:
    deadline = time.monotonic() + 60
    while server.log.count(text) < times:
        assert time.monotonic() < deadline, f"expected {times} x {text!r}:\n{server.log}"
        time.sleep(0.05)


def test_worker_whose_gpu_fails_is_replaced(server: RunningServer) -> None:
    """Both workers, one after the other: each is replaced, and the other answers meanwhile."""
    good, bad = encode_png(IMAGE), encode_png(stalling_image())
    for count in (1, 2):
        before = {p.pid for p in psutil.Process(server.process.pid).children()}
        answer = httpx.post(f"{server.url}/predict", content=bad, timeout=30)
        assert_error(answer, 503, "the GPU failed; another worker starts, retry")
        assert answer.headers["retry-after"] == "1"
        wait_for(server, "CUDA failure 700: an illegal memory access was encountered", count)
        wait_for(server, "ended by SIGTERM; another one starts", count)
        while server.log.count("ready after") < 2 + count:
            answer = httpx.post(f"{server.url}/predict", content=good, timeout=30)
            assert answer.status_code == 200, answer.text
            assert_own_result(answer.json()["results"][0], IMAGE)
        after = {p.pid for p in psutil.Process(server.process.pid).children()}
        assert len(before & after) == len(after) - 1 == 1
    answer = httpx.post(f"{server.url}/predict", content=good, timeout=30)
    assert_own_result(answer.json()["results"][0], IMAGE)
