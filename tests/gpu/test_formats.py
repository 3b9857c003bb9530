"""On a GPU: number formats and layouts, the choice among them, faults, two workers on one card."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.repository import ModelRepository
from service.session.devices import select_device
from service.session.formats import Variant, variants
from service.session.planning import DeviceOptions, PlanChoices, open_best
from service.session.plans import Plan
from service.session.session import Session
from tests.gpu.conftest import HOME, shipped
from tests.gpu.test_gpu import random_rows

pytestmark = pytest.mark.gpu

# Of probabilities: what golden images are allowed, see GOLDEN_TOLERANCE.
CLOSE = 1e-2
VARIANTS = variants("cuda", "auto", "auto", {"fp16"})


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """cifar10-cnn in float16, as ``foveal export`` converts it."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("half")
    (folder / "in.onnx").write_bytes(shipped("cifar10-cnn"))
    words = [sys.executable, "-m", "export.convert", f"{folder}/in.onnx", f"{folder}/out.onnx"]
    done = subprocess.run(words, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert not done.returncode, done.stderr
    return (folder / "out.onnx").read_bytes()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_format_and_layout_answers_as_the_cpu(
    variant: Variant,
    cnn: bytes,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    cpu = Session(cnn, Plan(threads=2))
    content = request.getfixturevalue("half") if variant.precision == "fp16" else cnn
    plan = DeviceOptions(select_device("cuda"), buckets=(1, 8)).plan(variant, 1, 16, ())
    gpu = Session(content, plan)
    assert (gpu.plan.binding, gpu.reason) == ("graph", "")
    assert gpu.opening_s.keys() == {"onnxruntime", "search", "graphs"}
    largest = 0.0
    for rows in (1, 3, 16, 21):
        images = random_rows(cpu, rows, rows)
        got, expected = gpu.run(images).probabilities, cpu.run(images).probabilities
        largest = max(largest, float(np.abs(got - expected).max()))
    record_property(f"largest_difference {variant}", largest)
    assert largest <= CLOSE
    assert gpu.cpu_nodes == ()


def test_the_fastest_is_chosen_and_answers_golden_images() -> None:
    repository = ModelRepository(HOME / "models")
    artifact = repository.verify(*repository.resolve("cifar10-cnn"))
    device = DeviceOptions(select_device("cuda"), tf32="auto")
    session = open_best(repository, artifact, PlanChoices("auto", rows=16, device=device))
    assert Variant(session.plan.precision, session.plan.tf32, session.plan.layout) in VARIANTS
    assert session.plan.device == "cuda"
    exact = open_best(repository, artifact, PlanChoices("fp32", rows=16, device=device))
    assert (exact.plan.format, exact.plan.layout) == ("fp32", "nchw")


def program(text: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program of its own: what happens to its CUDA stays there."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=HOME,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


BROKEN = """
import os, sys
import numpy as np
from service.errors import DeviceLostError
from service.session.plans import Plan
from service.session.session import Session
content = open(sys.argv[1], "rb").read()
session = Session(content, Plan("cuda", binding="bound", buckets=(2,)))
images = np.zeros((2, *session.row_shape), np.uint8)
session.run(images)
slot = session._bound.slots[0]
# Kernels will read an address where nothing is.
slot._bound[2].binding.bind_input("images", "cuda", 0, np.uint8, images.shape, 1 << 20)
for _ in range(2):
    try:
        session.run(images)
    except DeviceLostError as error:
        print("lost:", error.message, flush=True)
os._exit(0)
"""


def test_an_illegal_address_is_told_from_a_run_that_failed(cnn: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(cnn)
    said, _ = program(BROKEN, tmp_path / "model.onnx").communicate(timeout=120)
    assert said.count("lost: run of batch (2, 32, 32, 3) failed") == 2, said


WORKER = """
import sys
import numpy as np
from service.session.plans import Plan
from service.session.session import Session
content = open(sys.argv[1], "rb").read()
cpu = Session(content, Plan())
gpu = Session(content, Plan("cuda", binding="graph", buckets=(1, 4, 16)))
print("ready", flush=True)
sys.stdin.readline()
random = np.random.default_rng(int(sys.argv[2]))
for count in range(300):
    images = random.integers(0, 256, (1 + count % 16, *gpu.row_shape), np.uint8)
    got = gpu.run(images)
    if not count % 20:
        np.testing.assert_allclose(got.logits, cpu.run(images).logits, rtol=0, atol=1e-3)
print("done", gpu.plan.binding)
"""


def test_two_workers_share_one_card(cnn: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(cnn)
    workers = [program(WORKER, tmp_path / "model.onnx", number) for number in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", worker.communicate(timeout=60)
    answers = [worker.communicate("\n", timeout=120)[0] for worker in workers]
    assert answers == ["done graph\n"] * 2


def test_scoring_answers_as_on_the_cpu() -> None:
    local = pytest.importorskip("scoring.local")
    repository = ModelRepository(HOME / "models")
    on_gpu = local.LocalModel.load(repository, "cifar10-cnn", device="cuda")
    on_cpu = local.LocalModel.load(repository, "cifar10-cnn")
    assert (on_gpu.computed_in, on_cpu.computed_in) == ("fp32 on cuda", "fp32")
    images = np.random.default_rng(3).integers(0, 256, (70, 32, 32, 3), np.uint8)
    got, expected = on_gpu.run_batch(images), on_cpu.run_batch(images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
