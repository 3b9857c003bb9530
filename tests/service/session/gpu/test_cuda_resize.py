"""The kernel's launches, its memory and its budget, on a driver of plain memory compiled here.

What is shown: addresses, sizes and order are right, and memory stays within its bound. What is not:
anything that a GPU does by itself.
"""

import ctypes
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from models.artifact import ImageSpec, Resize
from models.jpeg_scan import can_scan
from models.resample import has_tables
from service.rollout.options import load_options
from service.session.gpu import cuda_resize, open_card
from service.session.gpu.accelerator import Accelerator
from service.session.gpu.cuda_resize import CudaResizer
from service.session.gpu.cuda_runtime import CudaRuntime, DeviceFacts
from service.session.gpu.photographs import MOST_BYTES, WORK
from service.session.gpu.resize import Surface, by_numpy, resizing
from service.session.gpu.stand_in import StandInDecoder
from service.session.plans import SelectedDevice
from service.settings import Settings

pytestmark = pytest.mark.skipif(
    not (can_scan() and has_tables()), reason="needs the compiled scan and resize"
)
MIB = 1 << 20


class Status:
    value, name = 0, "CUDA_SUCCESS"


def calls(**results: Any) -> types.SimpleNamespace:
    """Functions of a library that answer a status and these."""

    def call(result: Any) -> Any:
        return lambda *arguments: (
            (Status, result(*arguments)) if callable(result) else (Status, result)
        )

    return types.SimpleNamespace(**{name: call(result) for name, result in results.items()})


@pytest.fixture
def card(
    runtime: CudaRuntime, kernel: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Accelerator]:
    """A GPU whose kernels run on the host."""
    run = getattr(kernel, "pass")
    run.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)

    def launch(function: bytes, *arguments: Any) -> None:
        ((pictures,), _) = arguments[-2]
        assert arguments[-3], "a stream of its own"
        run(function == b"second_pass", pictures, arguments[1])

    facts = DeviceFacts("stand-in", "9.0", 1, 1e9, 1e9, 1 << 30)
    monkeypatch.setattr(runtime, "facts", lambda _index: facts)
    for module in ("accelerator", "cuda_resize", "open_card"):
        monkeypatch.setattr(f"service.session.gpu.{module}.runtime", lambda: runtime)
    monkeypatch.setattr(cuda_resize, "_compile", lambda capability: capability.encode())
    driver = calls(
        cuModuleLoadData=b"module", cuModuleGetFunction=lambda _, name: name, cuLaunchKernel=launch
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)  # type: ignore[arg-type]
    monkeypatch.setattr(open_card, "HardwareDecoder", lambda _index, _stream: StandInDecoder())
    made = Accelerator(0)
    monkeypatch.setattr(open_card, "accelerator", lambda _index: made)
    open_card._open.cache_clear()
    yield made
    open_card._open.cache_clear()
    made.executor.shutdown()


def test_rows_are_the_twins_and_memory_stays_within_its_bound(
    card: Accelerator, runtime: CudaRuntime
) -> None:
    most = 300_000
    resizer = CudaResizer(card.index, runtime.stream(), most)
    generator = np.random.default_rng(1)
    held = []
    for count, side in ((1, 20), (5, 40), (2, 90), (9, 33)):
        spec = ImageSpec("RGB", side, side + 3, Resize("shorter", "lanczos"))
        sizes = generator.integers(60, 200, (count, 2)).tolist()
        pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        each = [how for high, wide in sizes if (how := resizing(high, wide, 6, spec)) is not None]
        assert len(each) == count
        work_bytes = sum(how.work_bytes for how in each)
        assert work_bytes <= most
        surfaces = [
            Surface(p.ctypes.data, p.shape[0], p.shape[1], p.strides[0], p) for p in pictures
        ]
        for row, picture, how in zip(resizer.resize(surfaces, each), pictures, each, strict=True):
            np.testing.assert_array_equal(row, by_numpy(picture, how))
        held.append(resizer._work._size)
        assert work_bytes <= held[-1] <= most
    assert held[0] < held[-1] and held == sorted(held)


def test_what_the_decoder_may_hold_is_in_the_budget(
    card: Accelerator, caplog: pytest.LogCaptureFixture
) -> None:
    selected = SelectedDevice("cuda", 0, "cuda")
    with caplog.at_level("INFO"):
        found = open_card.photographs_of(selected, "auto", 1000 * MIB)
    assert found is not None
    assert found.most_bytes == 1000 * MIB * 3 // 16
    held = card.budget.held_bytes
    assert found.most_bytes + found.most_bytes // WORK <= held <= 1000 * MIB // 4 + MIB
    assert card.budget.left_bytes(1000 * MIB) == 1000 * MIB - held
    assert f"in up to {held >> 20} MiB" in caplog.text


def test_without_a_limit_a_batch_is_bounded_all_the_same(card: Accelerator) -> None:
    found = open_card.photographs_of(SelectedDevice("cuda", 0, "cuda"), "auto")
    assert found is not None and found.most_bytes == MOST_BYTES
    assert card.budget.held_bytes >= MOST_BYTES + MOST_BYTES // WORK
    assert card.budget.left_bytes(0) == 0


@pytest.mark.parametrize(
    ("limit", "taken", "why"),
    [
        (100, 0, "expected FOVEAL_GPU_MEMORY_MIB of 171 or more for it, got 100"),
        (400, 350, "expected room in 400 MiB, got 100 MiB more beside 350 MiB of others"),
    ],
)
def test_a_limit_that_leaves_too_little_leaves_jpegs_to_the_cpu(
    card: Accelerator, caplog: pytest.LogCaptureFixture, limit: int, taken: int, why: str
) -> None:
    card.budget.take(1, taken * MIB, 0)
    with caplog.at_level("INFO"):
        found = open_card.photographs_of(SelectedDevice("cuda", 0, "cuda"), "auto", limit * MIB)
    assert found is None
    assert f"the CPU decodes JPEGs: {'cuda:0: ' if taken else ''}{why}" in caplog.text
    assert card.budget.held_bytes == taken * MIB


def test_the_services_limit_reaches_the_decoder(
    card: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = SelectedDevice("cuda", 0, "cuda")
    monkeypatch.setattr("service.rollout.options.select_device", lambda *_: selected)
    options = load_options(Settings(device="cuda", gpu_memory_mib=800), 0)
    assert options.photographs is not None
    assert options.photographs.most_bytes == 150 * MIB
    assert card.budget.held_bytes >= 200 * MIB


def test_no_batch_is_decoded_while_a_graph_is_captured(card: Accelerator) -> None:
    found = open_card.photographs_of(SelectedDevice("cuda", 0, "cuda"), "auto")
    assert found is not None
    assert card.memory().exclusive is card.exclusive is found._lock
