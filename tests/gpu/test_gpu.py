"""On a GPU: the provider works, buckets agree, graphs are never stale, models share the device."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import InferenceError
from service.session.buckets import default_buckets
from service.session.devices import PROVIDERS, find_device, gpu_count
from service.session.gpu.accelerator import accelerator
from service.session.gpu.binding import STAGED
from service.session.session import Outputs, Plan, Session
from tests.gpu.conftest import HOME, why_not

pytestmark = pytest.mark.gpu

BUCKETS = default_buckets(16)
GRAPH = Plan("cuda", binding="graph", buckets=BUCKETS)
# float32 on both sides, summed in another order; logits of these networks are below 30.
SAME = 1e-3


def random_rows(session: Session, rows: int, seed: int) -> NDArray[np.uint8]:
    shape = session._session.get_inputs()[0].shape[1:]
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), np.uint8)


def assert_close(got: Outputs, expected: Outputs, atol: float = SAME) -> None:
    np.testing.assert_allclose(got.logits, expected.logits, rtol=0, atol=atol)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, rtol=0, atol=atol)


# The device does the work


def test_auto_finds_the_gpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = find_device("auto", worker=0)
    assert (found.device, found.index, found.is_fallback, found.reason) == ("cuda", 0, False, "")
    assert "device auto: cuda:0 runs all models" in caplog.text


def test_workers_are_dealt_to_the_gpus_in_turn() -> None:
    count = gpu_count("cuda")
    assert [find_device("cuda", worker).index for worker in range(count + 1)] == [*range(count), 0]


def test_all_nodes_are_on_the_gpu(model: bytes) -> None:
    session = Session(model, GRAPH)
    assert session._session.get_providers()[0] == PROVIDERS["cuda"]
    assert session.cpu_nodes == ()
    assert (session.plan.binding, session.reason) == ("graph", "")
    assert session.memory_bytes > 0


def test_gpus_that_are_hidden_are_not_found() -> None:
    program = (
        "from service.session.devices import find_device\n"
        "try: find_device('cuda')\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HOME,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("device cuda: expected a GPU, got"), done.stdout + done.stderr


# What it answers


@pytest.mark.parametrize("binding", ["plain", "bound", "graph"])
def test_answers_are_those_of_the_cpu(model: bytes, binding: str) -> None:
    cpu = Session(model, Plan(threads=2))
    gpu = Session(model, Plan("cuda", binding=binding, buckets=BUCKETS))  # type: ignore[arg-type]
    for rows in (1, 3, 16, 21):
        images = random_rows(cpu, rows, rows)
        assert_close(gpu.run(images), cpu.run(images))


def test_a_row_has_the_same_logits_in_every_bucket(
    model: bytes, record_property: Callable[[str, object], None]
) -> None:
    images = random_rows(Session(model, Plan()), 1, 5)
    logits = [
        Session(model, Plan("cuda", binding="graph", buckets=(bucket,))).run(images).logits
        for bucket in BUCKETS
    ]
    difference = max(float(np.abs(each - logits[0]).max()) for each in logits)
    record_property("largest_difference_fp32", difference)
    scale = max(1.0, float(np.abs(logits[0]).max()))
    assert difference <= 1e-5 * scale


def test_tf32_is_off_unless_asked_for(
    cnn: bytes, record_property: Callable[[str, object], None]
) -> None:
    """TF32 keeps eleven bits of each factor; how far logits move is written down."""
    cpu = Session(cnn, Plan(threads=2))
    images = random_rows(cpu, 16, 1)
    expected = cpu.run(images)
    plans = [Plan("cuda", binding="bound", buckets=(16,), tf32=tf32) for tf32 in (False, True)]
    off, on = (
        float(np.abs(Session(cnn, plan).run(images).logits - expected.logits).max())
        for plan in plans
    )
    record_property("difference_from_cpu_fp32", off)
    record_property("difference_from_cpu_tf32", on)
    assert off <= SAME
    assert on <= 0.5


# Graphs are never stale


def test_replays_answer_for_the_rows_of_now(model: bytes) -> None:
    """Different inputs, buckets in turns, in every slot: never the answers of a capture."""
    cpu, gpu = Session(model, Plan(threads=2)), Session(model, GRAPH)
    assert gpu.plan.binding == "graph"
    for seed in range(3):
        for rows in (1, 16, 2, 9, 4, 1, 5):
            images = random_rows(cpu, rows, 100 * seed + rows)
            expected = cpu.run(images)
            assert_close(gpu.run(images), expected)
            for slot in gpu.slots:
                slot.images[:rows] = images
                slot.stage(slot.images[:rows])
                got = accelerator(0).call(gpu.run_slot, slot, slot.images[:rows])
                assert_close(got, expected)


def test_the_next_batch_is_staged_while_one_runs(cnn: bytes) -> None:
    cpu, gpu = Session(cnn, Plan(threads=2)), Session(cnn, GRAPH)
    batches = [random_rows(cpu, 1 + seed % 16, seed) for seed in range(40)]
    runs: list[Future[Outputs]] = []
    for number, images in enumerate(batches):
        if number >= STAGED:
            runs[number - STAGED].result()
        slot = gpu.slots[number % STAGED]
        slot.images[: len(images)] = images
        slot.stage(slot.images[: len(images)])
        assert gpu.executor is not None
        runs.append(gpu.executor.submit(gpu.run_slot, slot, slot.images[: len(images)]))
    for images, run in zip(batches, runs, strict=True):
        assert_close(run.result(), cpu.run(images))


def test_threads_that_call_at_once_get_their_own_answers(fcnn: bytes) -> None:
    cpu, gpu = Session(fcnn, Plan()), Session(fcnn, GRAPH)
    names: set[str] = set()

    def work(seed: int) -> None:
        for i in range(30):
            images = random_rows(cpu, 1 + (seed + i) % 16, seed * 100 + i)
            assert_close(gpu.run(images), cpu.run(images))

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work, seed) for seed in range(8)]:
            done.result()
    accelerator(0).call(lambda: names.add(threading.current_thread().name))
    assert names == {"cuda-0_0"}


# Models share the device


def test_a_model_that_is_loaded_does_not_disturb_one_that_serves(fcnn: bytes, cnn: bytes) -> None:
    """A captured graph writes where its run did: nothing else may have come to lie there."""
    cpu = Session(fcnn, Plan())
    first = Session(fcnn, GRAPH)
    images = random_rows(cpu, 13, 1)
    expected = cpu.run(images)
    stop = threading.Event()

    def serve() -> int:
        runs = 0
        while not stop.is_set():
            assert_close(first.run(images), expected)
            runs += 1
        return runs

    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve)
        others = [Session(content, GRAPH) for content in (cnn, fcnn, cnn)]
        more = random_rows(cpu, 7, 2)
        assert_close(others[1].run(more), cpu.run(more))
        stop.set()
        assert serving.result() > 0
    assert_close(others[1].run(more), cpu.run(more))
    assert_close(first.run(images), expected)


def test_a_session_that_is_let_go_gives_its_memory_back(cnn: bytes) -> None:
    device = accelerator(0)
    held = device.budget.held_bytes
    session = Session(cnn, GRAPH)
    assert device.budget.held_bytes == held + session.memory_bytes
    del session
    gc.collect()
    device.call(lambda: None)  # what was let go is freed on the device's thread, in turn
    assert device.budget.held_bytes == held


def test_models_stay_within_the_budget(fcnn: bytes) -> None:
    device = accelerator(0)
    gc.collect()
    device.call(lambda: None)
    tight = max(1 << 20, device.budget.held_bytes)
    with pytest.raises(InferenceError, match=r"FOVEAL_GPU_MEMORY_MIB|memory"):
        Session(fcnn, Plan("cuda", binding="graph", buckets=BUCKETS, memory_bytes=tight))
    roomy = device.budget.held_bytes + (4 << 30)
    session = Session(fcnn, Plan("cuda", binding="graph", buckets=BUCKETS, memory_bytes=roomy))
    assert session.memory_bytes < 4 << 30


# TensorRT


def test_tensorrt_keeps_its_engines(fcnn: bytes, tmp_path: Path) -> None:
    if why := why_not("tensorrt"):
        pytest.skip(why)
    cpu = Session(fcnn, Plan())
    images = random_rows(cpu, 5, 1)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        session = Session(
            fcnn,
            Plan(
                "tensorrt",
                binding="graph",
                buckets=BUCKETS,
                engine_cache=tmp_path,
                row_shape=images.shape[1:],
            ),
        )
        seconds.append(time.perf_counter() - started)
        assert session._session.get_providers()[0] == PROVIDERS["tensorrt"]
        assert_close(session.run(images), cpu.run(images), atol=1e-2)
        engines = sorted(tmp_path.glob("*.engine"))
        assert engines
        del session
