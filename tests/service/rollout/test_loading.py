"""How a version is loaded: its self-test, its file, and which of settings and tuning counts."""

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.artifact import ArtifactError, ModelArtifact
from models.repository import ModelRepository
from models.tuned import write_tuning
from service.pipeline.limits import BatchLimits
from service.rollout import loading
from service.rollout.catalog import load_catalog, load_versions
from service.rollout.loading import LoadOptions, load
from service.session.machine import this_machine
from service.session.planning import DeviceOptions
from service.session.progress import Budget
from tests.server import ROOT
from tests.tiny import build_tiny, publish_tiny, random_images, tiny_logits, tiny_model
from tests.tuned import tuning_for

OPTIONS = LoadOptions(BatchLimits(max_batch_size=4, max_wait_s=99))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path)


def publish(
    repository: ModelRepository, change: Callable[[ModelArtifact, Path], ModelArtifact]
) -> ModelArtifact:
    """Publish a tiny model after a change to it."""
    return repository.publish(
        "tiny", lambda folder, v: change(build_tiny(folder, "tiny", v, tiny_model()), folder)
    )


def test_a_plan_is_followed_and_the_log_says_so(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = publish_tiny(repository.root, lower={"int8": 3.0})
    plan = tuning_for(artifact, precision="int8")
    write_tuning(repository, "tiny", 1, plan)
    with caplog.at_level(logging.INFO):
        classifier = load(repository, "tiny", 1, OPTIONS)
    assert classifier.session.plan.precision == "int8"
    assert classifier.session.plan.threads == 1
    assert classifier.limits.instances == 2
    assert classifier.limits.batch == BatchLimits(7, 99, 0.0015)
    assert classifier.tuned == plan
    assert "as tuned on 2026-11-21T12:00:00+00:00" in caplog.text


def test_buckets_are_the_plans_unless_they_were_set(repository: ModelRepository) -> None:
    artifact = publish_tiny(repository.root)
    write_tuning(repository, "tiny", 1, dataclasses.replace(tuning_for(artifact), buckets=(1, 7)))
    assert load(repository, "tiny", 1, OPTIONS).session.plan.buckets == (1, 7)
    set_by_hand = dataclasses.replace(OPTIONS, explicit=frozenset({"buckets"}))
    assert load(repository, "tiny", 1, set_by_hand).session.plan.buckets == ()


def test_what_was_set_explicitly_wins(repository: ModelRepository) -> None:
    artifact = publish_tiny(repository.root, lower={"int8": 3.0})
    write_tuning(repository, "tiny", 1, tuning_for(artifact, precision="int8"))
    names = {"precision": "fp32", "instances": 1, "threads": 2}
    options = dataclasses.replace(
        OPTIONS, threads=2, explicit=frozenset({*names, "max_batch_size", "max_queue_delay_ms"})
    )
    classifier = load(repository, "tiny", 1, options)
    assert classifier.session.plan.precision == "fp32"
    assert classifier.session.plan.threads == 2
    assert classifier.limits.instances == 1
    assert classifier.limits.batch == OPTIONS.batch
    one = load(repository, "tiny", 1, dataclasses.replace(OPTIONS, explicit=frozenset({"threads"})))
    assert one.session.plan.precision == "int8", "the others are still the plan's"


@pytest.mark.parametrize("how", ["machine", "bytes", "corrupt"])
def test_a_plan_that_does_not_count_is_one_line_in_the_log(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    artifact = publish_tiny(repository.root)
    plan = tuning_for(artifact)
    if how == "machine":
        machine = dataclasses.replace(plan.machine, cores=plan.machine.cores + 1)
        write_tuning(repository, "tiny", 1, dataclasses.replace(plan, machine=machine))
    elif how == "bytes":
        write_tuning(repository, "tiny", 1, dataclasses.replace(plan, sha256="0" * 64))
    else:
        repository.plan_path("tiny", 1).write_text('{"model": "tiny:1", "thr')
    classifier = load(repository, "tiny", 1, OPTIONS)
    assert (classifier.limits, classifier.tuned) == (OPTIONS.limits, None)
    assert classifier.session.plan.precision == OPTIONS.precision
    assert classifier.session.plan.buckets == OPTIONS.device.buckets
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("tiny:1 is served without ")
    expected = {"machine": "cores", "bytes": "other bytes", "corrupt": "expected a plan"}[how]
    assert expected in lines[0]


def test_another_number_of_workers_is_another_machine(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """Each worker would take the cores that one was given."""
    write_tuning(repository, "tiny", 1, tuning_for(publish_tiny(repository.root)))
    classifier = load(repository, "tiny", 1, dataclasses.replace(OPTIONS, workers=2))
    assert classifier.tuned is None
    assert "workers 1, here it is 2" in caplog.text


def test_a_version_is_loaded_again_when_its_plan_changes(repository: ModelRepository) -> None:
    artifact = publish_tiny(repository.root)
    first = load_versions(repository, "tiny", 1, OPTIONS)
    assert load_versions(repository, "tiny", 1, OPTIONS, first).good == first.good
    write_tuning(repository, "tiny", 1, tuning_for(artifact))
    second = load_versions(repository, "tiny", 1, OPTIONS, first)
    assert second.good[1] is not first.good[1]
    assert second.good[1].limits.instances == 2
    assert load_versions(repository, "tiny", 1, OPTIONS, second).good == second.good


def test_the_machine_is_what_this_process_may_use() -> None:
    machine = this_machine(workers=3)
    assert 1 <= machine.cores <= len(os.sched_getaffinity(0))
    assert machine.workers == 3
    assert machine.cpu


def test_loads_and_runs(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, OPTIONS)
    images = random_images(3)
    np.testing.assert_array_equal(classifier.session.run(images).logits, tiny_logits(images))
    assert classifier.full_batch_s > 0


def test_without_time_left_one_row_is_measured(repository: ModelRepository) -> None:
    """A full batch of a large model takes minutes: it is worked out, not run."""
    publish_tiny(repository.root, model=tiny_model(is_slow=True))
    budget = Budget(0)
    options = LoadOptions(BatchLimits(max_batch_size=1024), threads=1, budget=budget)
    full_batch_s = load(repository, "tiny", 1, options).full_batch_s
    for kept in repository.root.rglob("measured-*.json"):  # of a full batch above two seconds
        kept.unlink()
    spent = Budget(1000)
    measured = load(repository, "tiny", 1, dataclasses.replace(options, budget=spent)).full_batch_s
    assert full_batch_s > 0 and measured > 0
    assert -budget._left_s < (1000 - spent.left_s) / 10


def cubic_model() -> onnx.ModelProto:
    """A model whose time grows with the third power of its rows: 48 take a second."""
    model = tiny_model()
    for name, shape in (("column", [-1, 1]), ("line", [1, -1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "none"))
    *before, divide, softmax = model.graph.node
    before[-1].output[0] = "scores"
    added = [
        helper.make_node("Reshape", ["floats", "column"], ["high"]),
        helper.make_node("Reshape", ["floats", "line"], ["wide"]),
        helper.make_node("MatMul", ["high", "wide"], ["square"]),
        helper.make_node("MatMul", ["square", "square"], ["cube"]),
        helper.make_node("ReduceMax", ["cube"], ["most"]),
        helper.make_node("Mul", ["most", "none"], ["nothing"]),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*before, *added, divide, softmax])
    return model


@pytest.mark.parametrize("buckets", [(), (1, 2, 4, 8, 16, 32, 48)])
@pytest.mark.parametrize("threads", [1, 0])
def test_a_slow_graph_is_warmed_within_the_budget(
    repository: ModelRepository, buckets: tuple[int, ...], threads: int
) -> None:
    """Its full batch is far slower than its rows promise, as on a machine that gets busy."""
    publish_tiny(repository.root, model=cubic_model())
    budget = Budget(0.5)
    options = LoadOptions(
        BatchLimits(max_batch_size=48),
        threads=threads,
        device=DeviceOptions(buckets=buckets),
        budget=budget,
    )
    started = time.perf_counter()
    classifier = load(repository, "tiny", 1, options)
    load_s = time.perf_counter() - started
    assert classifier.session.plan.buckets == buckets
    assert budget._left_s > -0.5, "a run may end after the budget, not several"
    started = time.perf_counter()
    images = random_images(48)
    np.testing.assert_array_equal(classifier.session.run(images).logits, tiny_logits(images))
    assert load_s < 2 * (time.perf_counter() - started) + 1


def test_what_was_measured_is_kept_for_the_next_start(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "KEPT_BATCH_S", 0.0)
    caplog.set_level(logging.INFO)
    publish_tiny(repository.root)
    measured = load(repository, "tiny", 1, OPTIONS)
    assert repository.measured_path("tiny", 1).is_file()
    assert "as measured before" not in caplog.text
    again = load(repository, "tiny", 1, OPTIONS)
    assert "as measured before" in caplog.text
    assert again.full_batch_s == measured.full_batch_s
    assert again.session.plan == measured.session.plan
    caplog.clear()
    other = dataclasses.replace(OPTIONS, batch=BatchLimits(max_batch_size=8))
    load(repository, "tiny", 1, other)
    assert "as measured before" not in caplog.text, "it was asked for something else"


def test_a_small_model_leaves_no_file(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    load(repository, "tiny", 1, OPTIONS)
    assert not repository.measured_path("tiny", 1).exists()


def test_the_models_of_a_start_share_a_budget(repository: ModelRepository) -> None:
    for name in ("a", "b"):
        publish_tiny(repository.root, name)
    told: list[str] = []
    budget = Budget(1000)
    load_catalog(repository, "", 2, dataclasses.replace(OPTIONS, budget=budget, tell=told.append))
    steps = ("reading", "opening", "self-test", "warm-up")
    for name in ("a", "b"):
        assert {f"{name}:1, {step}" for step in steps} <= set(told)
    assert 0 < 1000 - budget.left_s < 1000


def test_what_was_checked_is_what_is_opened(repository: ModelRepository) -> None:
    """The file is checked, then onnxruntime opens it by its path."""
    publish_tiny(repository.root)
    path = repository.path("tiny", 1) / "model.onnx"

    def replace_it(step: str) -> None:
        if step.endswith("opening"):
            other = path.with_suffix(".new")
            other.write_bytes(path.read_bytes())
            other.replace(path)

    with pytest.raises(ArtifactError, match="tiny:1: its files changed while it was loaded"):
        load(repository, "tiny", 1, dataclasses.replace(OPTIONS, tell=replace_it))


MEMORY = """
import sys
from pathlib import Path
from models.repository import ModelRepository
from service.rollout.loading import LoadOptions, load
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
before = peak()
classifier = load(ModelRepository(Path(sys.argv[1])), "tiny", 1, LoadOptions(threads=2))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_load_takes_little_more_memory_than_the_file(repository: ModelRepository) -> None:
    """Not a copy of its bytes, another of what onnxruntime parsed, and a third in its arena."""
    model = tiny_model()
    weights = np.random.default_rng(0).standard_normal((4096, 4096), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    model.graph.initializer.append(numpy_helper.from_array(weights[:1].T.copy() * 0, "zeros"))
    classes = np.zeros((4, 4096), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(classes, "classes"))
    *before, divide, softmax = model.graph.node
    before[-1].output[0] = "scores"
    added = [
        helper.make_node("MatMul", ["scores", "classes"], ["wide"]),
        helper.make_node("MatMul", ["wide", "weights"], ["wider"]),
        helper.make_node("MatMul", ["wider", "zeros"], ["nothing"]),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*before, *added, divide, softmax])
    publish_tiny(repository.root, model=model)
    size = (repository.path("tiny", 1) / "model.onnx").stat().st_size
    assert size > 64 << 20
    words = [sys.executable, "-c", MEMORY, str(repository.root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2.5 * size


def test_self_test_refuses_another_answer(repository: ModelRepository) -> None:
    """The files are whole, the graph is the contract's; only what it computes is wrong."""
    publish_tiny(repository.root, model=tiny_model(gain=1.001))
    with pytest.raises(ArtifactError, match=r"tiny:1: golden image golden/\d.png: .*difference"):
        load(repository, "tiny", 1, OPTIONS)


def test_self_test_refuses_a_nan(repository: ModelRepository) -> None:
    publish_tiny(repository.root, model=tiny_model(gain=float("nan")))
    with pytest.raises(ArtifactError, match="difference of nan"):
        load(repository, "tiny", 1, OPTIONS)


def test_self_test_reads_every_golden_image(repository: ModelRepository) -> None:
    def spoil_last(artifact: ModelArtifact, _folder: Path) -> ModelArtifact:
        golden = artifact.golden[-1]
        wrong = replace(golden, probabilities=tuple(p * 0.9 + 0.025 for p in golden.probabilities))
        return replace(artifact, golden=(*artifact.golden[:-1], wrong))

    publish(repository, spoil_last)
    with pytest.raises(ArtifactError, match=r"golden/7.png"):
        load(repository, "tiny", 1, OPTIONS)


def test_labels_in_another_order_are_refused_by_name(repository: ModelRepository) -> None:
    """Reversed in ``model.json`` alone, as a hand would; the others go on."""
    publish_tiny(repository.root, "well")
    publish_tiny(repository.root)
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"labels": document["labels"][::-1]}))
    catalog = load_catalog(repository, "", 2, OPTIONS)
    assert "$.golden[0].label: expected" in catalog.refused["tiny:1"]
    assert "\n" not in catalog.refused["tiny:1"]
    assert "well:1" not in catalog.refused


def test_model_that_onnxruntime_refuses_is_refused_with_its_reason(
    repository: ModelRepository,
) -> None:
    def break_graph(artifact: ModelArtifact, folder: Path) -> ModelArtifact:
        model = tiny_model()
        model.graph.node[0].op_type = "NoSuchOperator"
        content = model.SerializeToString()
        (folder / "model.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return replace(artifact, files=(replace(artifact.files[0], sha256=digest),))

    publish(repository, break_graph)
    publish_tiny(repository.root, "well")
    catalog = load_catalog(repository, "", 2, OPTIONS)
    assert "NoSuchOperator" in catalog.refused["tiny:1"]
    assert catalog.find("well").artifact.reference == "well:1"


def test_fp32_is_what_runs_whatever_the_order_of_the_files(repository: ModelRepository) -> None:
    """The plan says fp32; another precision listed first must not be loaded in its place."""

    def add_int8(artifact: ModelArtifact, folder: Path) -> ModelArtifact:
        content = tiny_model(gain=3).SerializeToString()
        (folder / "model.int8.onnx").write_bytes(content)
        int8 = replace(
            artifact.files[0],
            path="model.int8.onnx",
            precision="int8",
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )
        return replace(artifact, files=(int8, *artifact.files))

    publish(repository, add_int8)
    classifier = load(repository, "tiny", 1, OPTIONS)
    images = random_images(1)
    np.testing.assert_array_equal(classifier.session.run(images).logits, tiny_logits(images))


def test_graph_is_checked_by_onnx_itself() -> None:
    onnx.checker.check_model(tiny_model(), full_check=True)
