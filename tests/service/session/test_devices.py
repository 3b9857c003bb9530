"""What happens where a GPU was asked for; on machines without one, which is where CI runs."""

import logging
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from models.repository import ModelRepository
from service.errors import InferenceError
from service.pipeline.limits import BatchLimits
from service.rollout.catalog import load_catalog
from service.rollout.loading import LoadOptions, load
from service.session import devices
from service.session.devices import installed_libraries, select_device
from service.session.gpu.accelerator import Budget
from service.session.gpu.cuda_runtime import CudaError, CudaRuntime, driver_error
from service.session.planning import DeviceOptions
from service.session.plans import Asked, Plan, SelectedDevice
from service.session.providers import PROVIDERS, providers_of
from tests.tiny import publish_tiny, random_images, tiny_logits

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
without_gpu = pytest.mark.skipif(
    not driver_error(), reason="NVIDIA's driver is here: tests marked gpu say what happens then"
)


def test_the_cpu_is_found_without_looking() -> None:
    assert select_device("cpu") == SelectedDevice("cpu", 0, "cpu", "", False)


@without_gpu
@pytest.mark.parametrize("asked", ["cuda", "tensorrt"])
def test_a_device_that_is_not_here_is_refused_with_what_is_missing(asked: Asked) -> None:
    missing = "libcuda.so.1: cannot open" if HAS_CUDA else "ExecutionProvider, got version"
    with pytest.raises(InferenceError, match=f"device {asked}: expected .*{missing}") as refused:
        select_device(asked)
    assert "\n" not in refused.value.message


@without_gpu
def test_auto_falls_to_the_cpu_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = select_device("auto", worker=3)
    assert (found.device, found.index, found.asked) == ("cpu", 0, "auto")
    assert found.is_fallback == HAS_CUDA
    assert found.reason.startswith("device cuda: expected")
    said = f": {found.reason}" if HAS_CUDA else ""  # no GPU, none expected: nothing is wrong
    assert caplog.messages == [f"device auto: the CPU runs all models{said}"]
    assert [r.levelno for r in caplog.records] == [logging.WARNING if HAS_CUDA else logging.INFO]


def test_the_probe_is_one_node_that_adds() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="")
    assert model.SerializeToString() == devices.PROBE
    onnx.checker.check_model(model)


def test_a_device_is_here_once_a_node_has_run_on_it() -> None:
    devices.probe("cpu", 0)


def test_a_provider_that_onnxruntime_has_not_fails_the_probe() -> None:
    if HAS_CUDA:
        pytest.skip("this onnxruntime has the provider")
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(InferenceError, match=r"device tensorrt: Tensorrt.* does not load"),
    ):
        devices.probe("tensorrt", 0)


def test_a_runtime_that_is_not_there_is_named() -> None:
    with pytest.raises(CudaError, match=r"libcudart\.so\.99: cannot open shared object file"):
        CudaRuntime("libcudart.so.99")


@without_gpu
def test_the_real_runtime_has_every_call_and_says_what_it_lacks() -> None:
    found = [path for path in installed_libraries() if path.name.startswith("libcudart")]
    if not found:
        pytest.skip("no wheel with libcudart is installed; PyTorch's CUDA build brings one")
    runtime = CudaRuntime(str(found[0]))
    with pytest.raises(CudaError, match=r"cudaGetDeviceCount: .*driver.*\(\d+\)"):
        runtime.count()


def test_libraries_come_after_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "cu13/lib/libcublas.so.13",
        "cu13/lib/libcublasLt.so.13",
        "cudnn/lib/libcudnn.so.9",
        "cu13/lib/libcudart.so.13",
    )
    for name in names:
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(tmp_path)
    ours = [path.name for path in installed_libraries() if tmp_path in path.parents]
    assert ours == ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9"]


# What a device that is not here does to models


def test_no_model_is_served_on_a_device_that_is_not_here(tmp_path: Path) -> None:
    publish_tiny(tmp_path, "a")
    publish_tiny(tmp_path, "b")
    options = LoadOptions(device=DeviceOptions(error="device cuda: expected a GPU, got none"))
    catalog = load_catalog(ModelRepository(tmp_path), "", 2, options)
    assert catalog.refused == dict.fromkeys(("a:1", "b:1"), "device cuda: expected a GPU, got none")
    assert not catalog.defaults


def test_a_model_on_the_cpu_runs_in_the_buckets_that_are_set(tmp_path: Path) -> None:
    publish_tiny(tmp_path)
    options = LoadOptions(BatchLimits(6), device=DeviceOptions(buckets=(1, 4, 64)))
    classifier = load(ModelRepository(tmp_path), "tiny", 1, options)
    assert classifier.session.plan.buckets == (1, 4, 6)
    assert classifier.session.plan.binding == "bound"
    before = classifier.session.padded_rows
    images = random_images(3)
    outputs = classifier.session.run(images)
    assert (outputs.logits == tiny_logits(images)).all()
    assert classifier.session.padded_rows - before == 1


# Plans


def test_plans_put_the_device_asked_for_first_and_the_cpu_last() -> None:
    for device in ("cpu", "cuda", "tensorrt"):
        names = [name for name, _ in providers_of(Plan(device))]
        assert names[0] == PROVIDERS[device]
        assert names[-1] == "CPUExecutionProvider"


def test_cuda_is_told_stream_limit_and_graphs() -> None:
    plan = Plan("cuda", binding="graph", index=2, memory_bytes=1 << 30)
    (_, options), _ = providers_of(plan, stream=1234)
    assert options["device_id"] == 2
    assert options["gpu_mem_limit"] == 1 << 30
    assert options["user_compute_stream"] == 1234
    assert options["has_user_compute_stream"] == options["enable_cuda_graph"] == 1
    assert options["use_tf32"] == 0
    (_, plain), _ = providers_of(Plan("cuda", tf32=True))
    assert plain["use_tf32"] == 1
    assert not {"gpu_mem_limit", "user_compute_stream", "enable_cuda_graph"} & set(plain)


def test_tensorrt_keeps_engines_and_builds_one_for_all_buckets() -> None:
    plan = Plan(
        "tensorrt",
        "fp16",
        binding="graph",
        buckets=(1, 8),
        engine_cache=Path("/e"),
        row_shape=(28, 28, 1),
    )
    (_, options), (_, cuda), _ = providers_of(plan, stream=7)
    assert options["trt_engine_cache_path"] == "/e"
    assert options["trt_fp16_enable"] == options["trt_cuda_graph_enable"] == 1
    shapes = [options[f"trt_profile_{word}_shapes"] for word in ("min", "opt", "max")]
    assert shapes == ["images:1x28x28x1", "images:8x28x28x1", "images:8x28x28x1"]
    assert cuda["user_compute_stream"] == options["user_compute_stream"] == 7
    assert "enable_cuda_graph" not in cuda


# The budget of a device


def test_models_share_a_budget() -> None:
    budget = Budget("cuda:0")
    assert budget.left_bytes(0) == 0  # no limit
    budget.take(1, 600 << 20, 1000 << 20)
    assert budget.left_bytes(1000 << 20) == 400 << 20
    with pytest.raises(InferenceError, match="room in 1000 MiB, got 500 MiB more beside 600"):
        budget.take(2, 500 << 20, 1000 << 20)
    assert budget.held_bytes == 600 << 20
    with pytest.raises(InferenceError, match="cuda:0: expected room in 500 MiB, got 600 MiB held"):
        budget.left_bytes(500 << 20)
    budget.give_back(1)
    assert budget.left_bytes(500 << 20) == 500 << 20
