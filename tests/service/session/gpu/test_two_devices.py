"""Two GPUs, and more workers than that: each worker's sessions are on a device of its own."""

import ctypes
from typing import Literal

import numpy as np
import pytest

from service.rollout.options import load_options
from service.session import devices
from service.session.gpu.accelerator import Accelerator
from service.session.gpu.cuda_runtime import CudaRuntime
from service.session.plans import Plan
from service.session.providers import PROVIDERS, providers_of
from service.settings import Settings


@pytest.fixture
def two(runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stand-in has two devices; the devices that were probed."""
    probed: list[int] = []
    there = list(PROVIDERS.values())
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    monkeypatch.setattr(devices, "driver_error", lambda: "")
    monkeypatch.setattr(devices, "runtime", lambda: runtime)
    monkeypatch.setattr(devices, "probe", lambda _device, index: probed.append(index))
    return probed


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_workers_are_dealt_to_the_devices_in_turn(
    two: list[int], asked: Literal["auto", "cuda"]
) -> None:
    settings = Settings(device=asked, gpu_tf32="on")
    found = [load_options(settings, worker).device for worker in range(4)]
    assert [each.selected.index for each in found] == two == [0, 1, 0, 1]
    assert {each.selected.device for each in found} == {"cuda"}
    assert {each.tf32 for each in found} == {"on"}


def test_a_session_of_the_second_device_uses_it(
    runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.session.gpu.accelerator.runtime", lambda: runtime)
    device = Accelerator(1)
    chosen = ctypes.c_int.in_dll(runtime._library, "device")
    memory = device.memory()
    assert memory.index == 1
    runtime.use(0)
    address = memory.device(16)
    assert chosen.value == 1
    runtime.use(0)
    memory.upload(address, memory.host((16,), np.uint8), memory.event())
    assert chosen.value == 1
    memory.release()
    device.executor.shutdown()
    (_, options), _ = providers_of(Plan("cuda", index=1))
    assert options["device_id"] == 1
