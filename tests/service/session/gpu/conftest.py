"""A device that is none: ``stand_in`` in the place of CUDA."""

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.session.gpu.accelerator import Accelerator
from service.session.gpu.cuda_runtime import CudaRuntime
from service.session.gpu.resize import KERNEL
from tests.service.session.gpu.stand_in import COMPILER, CPU, HostMemory, build_runtime


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> CudaRuntime:
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    return build_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The text of the kernel as C, for the host."""
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("kernel") / "resize.so"
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-O2", "-Wall", "-Werror"]
    source = str(Path(__file__).with_name("host.c"))
    words = [COMPILER, "-shared", "-fPIC", *checks, "-I", str(KERNEL.parent), source]
    subprocess.run([*words, "-o", str(library)], check=True, timeout=60)
    return ctypes.CDLL(str(library))


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


@pytest.fixture
def fault(runtime: CudaRuntime) -> Iterator[ctypes.c_int]:
    """What the device does from now on: nothing, with this error."""
    found = ctypes.c_int.in_dll(runtime._library, "fault")
    yield found
    found.value = 0
