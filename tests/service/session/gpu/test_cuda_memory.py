"""CUDA's calls against a library of the same functions over plain memory, compiled here.

What is shown: each call's arguments arrive as the reference has them, copies go where they should,
and all that was taken is given back. What is not: anything that a GPU does by itself.
"""

import gc
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.repository import ModelRepository
from service.errors import InferenceError
from service.rollout.loading import LoadOptions, load
from service.session.gpu.accelerator import Accelerator
from service.session.gpu.binding import STAGED, BoundRuns
from service.session.gpu.cuda_runtime import CudaError, CudaRuntime
from service.session.gpu.memory import CudaMemory
from service.session.planning import DeviceOptions
from service.session.plans import Asked, Plan, SelectedDevice
from service.session.session import Session
from tests.service.session.gpu.stand_in import COMPILER, CPU, HostMemory, held
from tests.tiny import publish_tiny, random_images, tiny_logits, tiny_model

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def test_devices_are_counted_and_chosen(runtime: CudaRuntime) -> None:
    assert runtime.count() == 2
    runtime.use(1)
    with pytest.raises(CudaError, match=r"cudaSetDevice: invalid device ordinal \(101\)"):
        runtime.use(2)


def test_memory_is_all_zeros_and_given_back(runtime: CudaRuntime) -> None:
    before = held(runtime)
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream(), nullcontext())
    array = memory.host((3, 5), np.float32)
    assert not array.any()
    array[:] = np.arange(15).reshape(3, 5)
    address, arrived = memory.device(array.nbytes), memory.event()
    back = memory.host((3, 5), np.float32)
    memory.download(back, address)
    assert not back.any()
    memory.upload(address, array[:2], arrived)
    memory.expect(arrived)
    memory.download(back, address)
    memory.finish()
    np.testing.assert_array_equal(back[:2], array[:2])
    assert not back[2].any()
    assert held(runtime) == before + 4
    memory.release()
    memory.release()  # once
    assert held(runtime) == before


def test_what_does_not_fit_is_refused_by_name(runtime: CudaRuntime) -> None:
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream(), nullcontext())
    with pytest.raises(CudaError, match=r"cudaMalloc: out of memory \(2\)"):
        memory.device(1 << 40)


def test_a_session_is_bound_to_it(runtime: CudaRuntime) -> None:
    before = held(runtime)
    memory = HostMemory(runtime, 0, runtime.stream(), runtime.stream(), nullcontext())
    content = tiny_model().SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    bound = BoundRuns(session, memory, (1, 4), graphs=True)
    for warm_up in bound.warm_ups():
        warm_up()
    for seed in range(8):
        images = random_images(1 + seed % 4, seed)
        slot = bound.slots[seed % 3]
        slot.images[: len(images)] = images
        slot.stage(slot.images[: len(images)])
        np.testing.assert_array_equal(
            slot.run(slot.images[: len(images)]).logits, tiny_logits(images)
        )
    assert held(runtime) > before
    bound.close()
    memory.release()
    assert held(runtime) == before


def test_memory_starts_over_after_a_capture_that_failed(runtime: CudaRuntime) -> None:
    before = held(runtime)
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream(), nullcontext())
    memory.device(16)
    memory.recover()
    assert held(runtime) == before


# A device of plain memory: all of a GPU's code but the GPU; onnxruntime's part runs on the CPU


MODEL = tiny_model().SerializeToString()
PLAN = Plan("cuda", binding="graph", buckets=(1, 2, 4))


def test_all_runs_are_on_the_devices_thread(device: Accelerator) -> None:
    def name() -> str:
        return threading.current_thread().name

    assert device.call(name) == device.call(device.call, name) == "cuda-0_0"
    with pytest.raises(ZeroDivisionError):
        device.call(divmod, 1, 0)
    session = Session(MODEL, PLAN)
    assert session.executor is device.executor
    with ThreadPoolExecutor(4) as threads:
        for seed in range(40):
            images = random_images(1 + seed % 9, seed)
            logits = threads.submit(session.run, images).result().logits
            np.testing.assert_array_equal(logits, tiny_logits(images))


def test_each_graph_is_captured_while_nothing_else_is_on_the_device(device: Accelerator) -> None:
    """Another thread that allocates during a capture would end it: there the card decodes JPEGs."""
    captures = []

    class Lock(AbstractContextManager[None]):
        def __enter__(self) -> None:
            captures.append("begun")

        def __exit__(self, *_: object) -> None:
            captures.append("ended")

    device.exclusive = Lock()  # type: ignore[assignment]
    session = Session(MODEL, PLAN)
    assert captures == ["begun", "ended"] * len(PLAN.buckets) * (1 + STAGED)
    assert session.plan.binding == "graph"


def test_a_session_that_is_let_go_gives_its_memory_back(
    device: Accelerator, runtime: CudaRuntime
) -> None:
    before = held(runtime)
    session = Session(MODEL, PLAN, choose=True)
    assert session.memory_bytes == device.budget.held_bytes == held(runtime) - before > 0
    assert session.cpu_nodes == ("Shape shape",)
    del session
    gc.collect()
    device.call(int)  # freed on the device's thread, in turn
    assert (held(runtime), device.budget.held_bytes) == (before, 0)


def test_a_model_beyond_the_budget_is_refused_and_leaves_nothing(
    device: Accelerator, runtime: CudaRuntime
) -> None:
    first = Session(MODEL, replace(PLAN, memory_bytes=1000))
    before = held(runtime)
    for limit in (first.memory_bytes, first.memory_bytes + 1):
        with pytest.raises(InferenceError, match="FOVEAL_GPU_MEMORY_MIB"):
            Session(MODEL, replace(PLAN, memory_bytes=limit))
        assert held(runtime) == before
    assert device.budget.held_bytes == first.memory_bytes


@pytest.mark.usefixtures("device")
def test_a_model_that_cannot_be_captured_runs_without_graphs_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs: list[object] = []

    def providers(plan: Plan, _stream: int) -> list[tuple[str, dict[str, str]]]:
        """As onnxruntime refuses a session whose nodes are not all on the GPU."""
        graphs.append(plan.binding)
        return [("NoExecutionProvider", {})] if plan.binding == "graph" else CPU

    monkeypatch.setattr("service.session.session.providers_of", providers)
    with pytest.warns(UserWarning, match="not in available provider names"):
        session = Session(MODEL, PLAN)
    assert graphs == ["graph", "bound"]
    assert session.plan.binding == "bound"
    assert session.reason
    assert f"no graphs are replayed: {session.reason}" in caplog.text
    images = random_images(3)
    np.testing.assert_array_equal(session.run(images).logits, tiny_logits(images))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_model_that_the_device_cannot_run_goes_to_the_cpu_if_auto_chose(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish_tiny(tmp_path)

    def providers(plan: Plan, _stream: int) -> list[tuple[str, dict[str, str]]]:
        return CPU if plan.device == "cpu" else [("NoExecutionProvider", {})]

    monkeypatch.setattr("service.session.session.providers_of", providers)
    options = LoadOptions(device=DeviceOptions(SelectedDevice("cuda", 0, asked)))
    with pytest.warns(UserWarning, match="not in available provider names"):
        if asked == "cuda":
            with pytest.raises(InferenceError):
                load(ModelRepository(tmp_path), "tiny", 1, options)
            return
        classifier = load(ModelRepository(tmp_path), "tiny", 1, options)
    assert classifier.session.plan.device == "cpu"
    assert classifier.fallback
    assert f"tiny:1: the CPU runs it, cuda cannot: {classifier.fallback}" in caplog.text


def test_a_library_that_lacks_a_call_is_refused(tmp_path: Path) -> None:
    assert COMPILER is not None
    (tmp_path / "empty.c").write_text("const char *cudaGetErrorString(int s) { return 0; }")
    library = tmp_path / "libempty.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-o", library, tmp_path / "empty.c"], check=True, timeout=60
    )
    with pytest.raises(CudaError, match="cudaGetDeviceCount"):
        CudaRuntime(str(library))
