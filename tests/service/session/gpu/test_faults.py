"""Faults after which the device does no further work in this process."""

import asyncio
import ctypes
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.errors import DeviceLostError, InferenceError, NotReadyError
from service.pipeline.job import Job
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from service.session.gpu.faults import is_sticky
from service.session.planning import DeviceOptions
from service.session.plans import Plan, SelectedDevice
from service.session.session import Session
from tests.service.pipeline.callback_job import submit
from tests.tiny import publish_tiny, random_images, tiny_model

MODEL = tiny_model().SerializeToString()
PLAN = Plan("cuda", binding="graph", buckets=(1, 2, 4))


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
