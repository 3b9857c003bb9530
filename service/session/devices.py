"""Select the device that sessions run on, and report what is missing if it does not work.

A provider that onnxruntime lists may still not load, and then the CPU quietly takes its place. So a
device counts as available only after a graph of one node has run on it; otherwise one line carries
the error of the driver, the CUDA runtime or the dynamic loader. Knows no model.
"""

import ctypes
import functools
import importlib.util
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from service.errors import InferenceError
from service.session.gpu.cuda_runtime import CudaError, CudaRuntime, driver_error, load_runtime
from service.session.plans import Asked, Device, SelectedDevice
from service.session.providers import PROVIDERS

logger = logging.getLogger("foveal.devices")

# y = x + x, one float, ONNX opset 18; made by onnx.helper, as tests/service/session/test_devices.py
# repeats.
PROBE = bytes.fromhex(
    "080812003a390a0e0a01780a01781201792203416464120570726f62655a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a001012"
)
# Libraries that providers are linked to or open by name, each after those that it needs.
_LIBRARIES = (
    "libcudart.so.*",
    "libnvrtc.so.*",
    "libnvJitLink.so.*",
    "libcublasLt.so.*",
    "libcublas.so.*",
    "libcufft.so.*",
    "libcurand.so.*",
    "libcudnn.so.*",
    "libnvinfer.so.*",
    "libnvonnxparser.so.*",
)
# Their folders in wheels, below site-packages. CUDA 13's wheels share one folder.
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cudnn/lib", "tensorrt_libs")
_PROBE_S = 60  # the loader alone; a cold disk reads 300 MB


def select_device(asked: Asked, worker: int = 0) -> SelectedDevice:
    """Return the device that sessions of a worker run on.

    ``auto`` selects the GPU if it works, else the CPU, and logs why. TensorRT must be asked for:
    building its engines takes minutes at the first start.

    Args:
        asked: Value of the device setting.
        worker: Number of the worker process, from 0; workers are spread over the GPUs in turn.

    Raises:
        InferenceError: The device asked for does not work; the message names what is missing.
    """
    if asked == "cpu":
        return SelectedDevice()
    device: Device = "cuda" if asked == "auto" else asked
    try:
        index = worker % gpu_count(device)
        probe(device, index)
    except InferenceError as error:
        if asked != "auto":
            raise
        selected = SelectedDevice("cpu", 0, asked, error.message, _expects_gpu())
        if selected.is_fallback:
            logger.warning("device auto: the CPU runs all models: %s", error.message)
        else:
            logger.info("device auto: the CPU runs all models")
        return selected
    logger.info("device %s: %s:%d runs all models of worker %d", asked, device, index, worker)
    return SelectedDevice(device, index, asked)


def gpu_count(device: Device) -> int:
    """Return how many GPUs this process may use, at least 1.

    Raises:
        InferenceError: There is none, or a library that it needs is missing.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in available:
        raise InferenceError(
            f"device {device}: expected an onnxruntime with {PROVIDERS[device]}, got version "
            f"{onnxruntime.__version__} with {', '.join(available)}; install foveal[gpu] and not "
            "foveal[cpu]"
        )
    if why := driver_error():
        raise InferenceError(f"device {device}: expected NVIDIA's driver, got: {why}")
    try:
        count = runtime().count()
    except CudaError as error:
        raise InferenceError(f"device {device}: expected a GPU, got: {error}") from None
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
        raise InferenceError(f"device {device}: expected a GPU, got none{why}")
    return count


@functools.cache
def probe(device: Device, index: int) -> None:
    """Check that a device works by running one node on it; once a process.

    Raises:
        InferenceError: The node did not run there; the message names what is missing.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: the loader is asked for its error below
    provider = PROVIDERS[device]
    try:
        session = onnxruntime.InferenceSession(
            PROBE, options, providers=[(provider, {"device_id": index})], enable_fallback=0
        )
        if session.get_providers()[0] != provider:
            raise RuntimeError(f"onnxruntime took {session.get_providers()[0]} instead")
        (doubled,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime raises many classes without a common base
        why = loader_error(device) or " ".join(str(error).split())
        missing = re.match(r"(\S+\.so[.\d]*): cannot open", why)
        how = f"; install what brings {missing[1]}" if missing else ""
        raise InferenceError(f"device {device}: {provider} does not load: {why}{how}") from None
    if doubled[0] != 2:
        raise InferenceError(f"device {device}: expected 1 + 1 to be 2, got {doubled[0]}")


@functools.cache
def runtime() -> CudaRuntime:
    """Load CUDA's runtime, after the libraries of the installed wheels.

    Raises:
        CudaError: The library is missing.
    """
    for library in installed_libraries():
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:  # the probe names a library that is needed and missing
            logger.debug("%s does not load: %s", library, error)
    return load_runtime(_cuda_major())


def installed_libraries() -> list[Path]:
    """Return NVIDIA's libraries in this environment's wheels, in loading order."""
    spec = importlib.util.find_spec("nvidia")
    roots = (
        [Path(place).parent for place in (spec.submodule_search_locations or ())] if spec else []
    )
    folders = [root / folder for root in roots for folder in _FOLDERS]
    return [path for name in _LIBRARIES for folder in folders for path in sorted(folder.glob(name))]


def loader_error(device: Device) -> str:
    """Return the dynamic loader's error for a provider's library, "" if it loads.

    Runs in a child process: once loaded out of order, the library cannot be used by
    onnxruntime.
    """
    capi = Path(onnxruntime.__file__).parent / "capi"
    library = capi / f"libonnxruntime_providers_{device}.so"
    program = (
        "import ctypes, sys\n"
        "for name in sys.argv[1:]:\n"
        "    why = ''\n"
        "    try: ctypes.CDLL(name, ctypes.RTLD_GLOBAL)\n"
        "    except OSError as error: why = str(error)\n"
        "print(why)\n"  # of the last one: the provider's own
    )
    shared = capi / "libonnxruntime_providers_shared.so"
    paths = [str(path) for path in (*installed_libraries(), shared, library)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *paths],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("asking the loader failed: %s", error)
        return ""
    return done.stdout.strip()


def _cuda_major() -> str:
    """Return the major version of CUDA that this onnxruntime is built for."""
    version: str = getattr(onnxruntime, "cuda_version", "") or "13"
    return version.split(".", maxsplit=1)[0]


def _expects_gpu() -> bool:
    """Return whether this machine is set up for a GPU: by its driver or its onnxruntime."""
    has_driver = not driver_error() or Path("/proc/driver/nvidia/version").exists()
    return has_driver or PROVIDERS["cuda"] in onnxruntime.get_available_providers()
