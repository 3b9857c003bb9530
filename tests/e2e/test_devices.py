"""A device that is not here: never served by another in silence."""

import sys
from pathlib import Path

import httpx
import onnxruntime
import pytest

from models.image import encode_png
from models.resample import RESAMPLER
from service.session.gpu.cuda_runtime import driver_error
from tests.server import assert_error, running_server
from tests.tiny import random_images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not driver_error(), reason="NVIDIA's driver is here"),
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are named as on Linux"),
]

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
MISSING = "libcuda.so.1: cannot open" if HAS_CUDA else "expected an onnxruntime with"


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_here_is_never_ready_and_says_what_is_missing(
    tiny_repository: Path, tmp_path: Path, device: str
) -> None:
    with running_server(tiny_repository, tmp_path, is_ready=False, device=device) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        response = httpx.post(f"{server.url}/predict", content=encode_png(random_images(1)[0]))
        assert_error(response, 503, "no version could be loaded")
        index = httpx.post(f"{server.url}/v2/repository/index").json()
        assert {entry["state"] for entry in index} == {"UNAVAILABLE"}
        for entry in index:
            assert entry["reason"].startswith(f"device {device}: expected ")
            assert "\n" not in entry["reason"]
        said = [line for line in server.log.splitlines() if f"device {device}: " in line]
    assert said
    assert all(MISSING in line for line in said)


def test_auto_says_in_log_metrics_and_metadata_that_the_cpu_runs(
    tiny_repository: Path, tmp_path: Path
) -> None:
    with running_server(tiny_repository, tmp_path, device="auto", buckets="4,16") as server:
        why = ": device cuda: expected " if HAS_CUDA else "\n"
        assert f"device auto: the CPU runs all models{why}" in server.log
        assert (server.metric("foveal_device_fallback", model="tiny") > 0) == HAS_CUDA
        plan = {"model": "tiny", "asked": "auto", "device": "cpu", "binding": "bound"}
        plan |= {"buckets": "4,16,64", "resampler": RESAMPLER, "format": "fp32", "layout": "nchw"}
        assert server.metric("foveal_plan_info", **plan) >= 1
        assert f"images resized by {RESAMPLER}" in server.log
        config = httpx.get(f"{server.url}/v2/models/tiny/config").json()
        assert ("device_fallback" in config.get("parameters", {})) == HAS_CUDA
        assert config["instance_group"][0]["kind"] == "KIND_CPU"
        assert server.metric("foveal_cpu_nodes") == 0
        # Padding is counted where buckets are set.
        before = server.metric("foveal_padded_rows_total", model="tiny")
        for _ in range(3):
            png = encode_png(random_images(1)[0])
            assert httpx.post(f"{server.url}/predict", content=png).status_code == 200
        assert server.metric("foveal_padded_rows_total", model="tiny") - before == 9
