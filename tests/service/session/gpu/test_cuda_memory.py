"""CUDA's calls against a library of the same functions over plain memory, compiled here.

What is shown: each call's arguments arrive as the reference has them, copies go where they should,
and all that was taken is given back. What is not: anything that a GPU does by itself.
"""

import asyncio
import ctypes
import gc
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.repository import ModelRepository
from service.errors import DeviceLostError, InferenceError, NotReadyError
from service.pipeline.job import Job
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from service.session.gpu.accelerator import Accelerator
from service.session.gpu.binding import BoundRuns
from service.session.gpu.cuda_runtime import CudaError, CudaRuntime
from service.session.gpu.faults import is_sticky
from service.session.gpu.memory import CudaMemory
from service.session.planning import DeviceOptions
from service.session.plans import Asked, Plan, SelectedDevice
from service.session.session import Session
from tests.service.pipeline.callback_job import submit
from tests.tiny import publish_tiny, random_images, tiny_logits, tiny_model

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
static long held, handles = 0x123456789abc, recorded;
static int device = -1;
int fault;  /* what the device does from now on: nothing, with this error */
int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
int cudaSetDevice(int index) { if (index > 1) return 101; device = index; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int index) {
  *value = attribute; return index > 1 ? 101 : 0; }
int cudaMemGetInfo(size_t *free_, size_t *total) {
  *total = 1 << 30; *free_ = *total - held; return 0; }
int cudaMalloc(void **at, size_t size) {
  if (size > 1 << 30) return 2;
  *at = malloc(size); memset(*at, 7, size); held++; return 0; }
int cudaFree(void *at) { free(at); held--; return 0; }
int cudaHostAlloc(void **at, size_t size, unsigned flags) {
  if (flags) return 1; *at = malloc(size); memset(*at, 7, size); held++; return 0; }
int cudaFreeHost(void *at) { free(at); held--; return 0; }
int cudaMemset(void *at, int value, size_t size) { memset(at, value, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  if (fault) return fault;
  if (kind != 4 || stream == 0) return 1; memcpy(to, from, size); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  *stream = (void *)++handles; return flags != 1; }
int cudaStreamSynchronize(void *stream) { return fault; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
  return flags || (long)event != recorded; }
int cudaEventCreateWithFlags(void **event, unsigned flags) {
  *event = (void *)++handles; held++; return flags != 2; }
int cudaEventRecord(void *event, void *stream) { recorded = (long)event; return 0; }
int cudaEventDestroy(void *event) { held--; return 0; }
int cudaStreamEndCapture(void *stream, void **graph) { return 1; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int status) {
  return status == 2 ? "out of memory" : "invalid device ordinal"; }
"""


class HostMemory(CudaMemory):
    """As on a GPU, but that onnxruntime runs on the CPU, whose memory this is."""

    kind = "cpu"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> CudaRuntime:
    folder = tmp_path_factory.mktemp("runtime")
    source, library = folder / "runtime.c", folder / "libcudart.so.0"
    source.write_text(SOURCE)
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return CudaRuntime(str(library))


def held(runtime: CudaRuntime) -> int:
    """Return how many things are handed out."""
    return (1 << 30) - runtime.free_bytes()


def test_devices_are_counted_and_chosen(runtime: CudaRuntime) -> None:
    assert runtime.count() == 2
    runtime.use(1)
    with pytest.raises(CudaError, match=r"cudaSetDevice: invalid device ordinal \(101\)"):
        runtime.use(2)


def test_memory_is_all_zeros_and_given_back(runtime: CudaRuntime) -> None:
    before = held(runtime)
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream())
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
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream())
    with pytest.raises(CudaError, match=r"cudaMalloc: out of memory \(2\)"):
        memory.device(1 << 40)


def test_a_session_is_bound_to_it(runtime: CudaRuntime) -> None:
    before = held(runtime)
    memory = HostMemory(runtime, 0, runtime.stream(), runtime.stream())
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
    memory = CudaMemory(runtime, 0, runtime.stream(), runtime.stream())
    memory.device(16)
    memory.recover()
    assert held(runtime) == before


# A device of plain memory: all of a GPU's code but the GPU; onnxruntime's part runs on the CPU


@pytest.fixture
def device(runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    monkeypatch.setattr("service.session.gpu.accelerator.runtime", lambda: runtime)
    monkeypatch.setattr("service.session.gpu.accelerator.CudaMemory", HostMemory)
    made = Accelerator(0)
    monkeypatch.setattr("service.session.session.accelerator", lambda _index: made)
    monkeypatch.setattr("service.session.session.providers_of", lambda *_: CPU)
    monkeypatch.setattr("service.session.session._check_nodes", lambda *_: ("Shape shape",))
    yield made
    made.executor.shutdown()


CPU: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
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


# Faults after which the device does no more


@pytest.fixture
def fault(runtime: CudaRuntime) -> Iterator[ctypes.c_int]:
    found = ctypes.c_int.in_dll(runtime._library, "fault")
    yield found
    found.value = 0


@pytest.mark.usefixtures("device")
def test_a_device_that_is_lost_is_told_from_a_run_that_failed(
    fault: ctypes.c_int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(MODEL, PLAN)

    def fail(*_: object) -> None:
        fault.value = after
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUBLAS failure 14: internal error")

    (slot, *_), images, after = session.slots, random_images(2), 0
    with monkeypatch.context() as patched:
        patched.setattr(session._bound.session, "run_with_iobinding", fail)  # type: ignore[union-attr]
        with pytest.raises(InferenceError, match="CUBLAS failure 14") as failed:
            session.run(images)
        assert not isinstance(failed.value, DeviceLostError)
        after = 719  # cuBLAS has words of its own; CUDA tells
        with pytest.raises(DeviceLostError, match="CUBLAS failure 14"):
            session.run(images)
    with pytest.raises(DeviceLostError, match=r"upload of batch .* cudaMemcpyAsync: .* \(719\)"):
        session.stage_slot(slot, slot.images[:2])
    fault.value = 2  # no memory: another batch may fit
    with pytest.raises(InferenceError, match="cudaMemcpyAsync: out of memory") as refused:
        session.stage_slot(slot, slot.images[:2])
    assert not isinstance(refused.value, DeviceLostError)


@pytest.mark.usefixtures("device")
def test_a_batch_that_cannot_be_uploaded_is_answered_and_the_loss_reported(
    fault: ctypes.c_int, tmp_path: Path
) -> None:
    publish_tiny(tmp_path)
    device = DeviceOptions(SelectedDevice("cuda", 0, "cuda"), buckets=(1, 2, 4))
    options = LoadOptions(BatchLimits(4), device=device)
    classifier = load(ModelRepository(tmp_path), "tiny", 1, options)
    lost: list[int] = []

    async def main() -> Job:
        loop = asyncio.get_running_loop()
        classifier.start(loop)
        classifier.batcher.on_lost = lambda: lost.append(1)
        fault.value = 700
        answer: asyncio.Future[Job] = loop.create_future()
        submit(classifier.batcher, list(random_images(2)), loop.time() + 60, answer.set_result)
        job = await answer
        classifier.close()
        return job

    job = asyncio.run(main())
    assert isinstance(job.error, NotReadyError)
    assert "the GPU failed" in job.error.message
    assert lost == [1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=a", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=CUDA failure 7001", False),
        ("Status Message: CUDA error cudaErrorLaunchFailure:unspecified launch failure", True),
        ("CUDA error cudaErrorMemoryAllocation:out of memory", False),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", False),
        ("node 700 of the graph", False),
    ],
)
def test_words_of_onnxruntime_that_mean_the_device_is_lost(words: str, expected: bool) -> None:
    assert is_sticky(RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {words}")) == expected


def test_a_library_that_lacks_a_call_is_refused(tmp_path: Path) -> None:
    assert COMPILER is not None
    (tmp_path / "empty.c").write_text("const char *cudaGetErrorString(int s) { return 0; }")
    library = tmp_path / "libempty.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-o", library, tmp_path / "empty.c"], check=True, timeout=60
    )
    with pytest.raises(CudaError, match="cudaGetDeviceCount"):
        CudaRuntime(str(library))
