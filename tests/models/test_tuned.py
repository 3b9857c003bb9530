"""The plan beside a version: written and read again, refused if it is none, for whom it counts."""

import dataclasses
import json
from typing import Any

import pytest

from models.artifact import ArtifactError
from models.machine import Machine
from models.repository import ModelRepository
from models.tuned import TunedPlan, read_plan, remove_plan, tell_plan, write_plan
from tests.tiny import publish_tiny
from tests.tuned import plan_for

MACHINE = Machine("a processor", 4, 1, "cpu", "1.2.3")


@pytest.fixture
def plan(repository: ModelRepository) -> TunedPlan:
    return plan_for(publish_tiny(repository.root), MACHINE)


def test_written_and_read_again(repository: ModelRepository, plan: TunedPlan) -> None:
    assert read_plan(repository, "tiny", 1) is None
    padded = dataclasses.replace(plan, buckets=(1, 4, 7))
    write_plan(repository, "tiny", 1, padded)
    assert read_plan(repository, "tiny", 1) == padded
    assert repository.names() == ["tiny"]
    assert repository.versions("tiny") == [1]
    assert repository.verify("tiny", 1).reference == "tiny:1"
    assert remove_plan(repository, "tiny", 1)
    assert not remove_plan(repository, "tiny", 1)
    assert read_plan(repository, "tiny", 1) is None


def test_a_changed_plan_is_a_changed_version(repository: ModelRepository, plan: TunedPlan) -> None:
    publish_tiny(repository.root)
    seen = [repository.fingerprint("tiny", 1)]
    other = repository.fingerprint("tiny", 2)
    write_plan(repository, "tiny", 1, plan)
    seen.append(repository.fingerprint("tiny", 1))
    write_plan(repository, "tiny", 1, plan)
    seen.append(repository.fingerprint("tiny", 1))
    assert len(set(seen)) == 3
    assert repository.fingerprint("tiny", 2) == other
    remove_plan(repository, "tiny", 1)
    assert repository.fingerprint("tiny", 1) == seen[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 0}, "plan.threads: expected 1 or more, got 0"),
        ({"instances": "2"}, "plan.instances: expected int, got '2'"),
        ({"max_batch_size": 1 << 30}, "plan.max_batch_size"),
        ({"max_queue_delay_ms": -1}, "plan.max_queue_delay_ms"),
        ({"precision": "int4"}, "plan.precision: expected fp32"),
        ({"buckets": [4, 2]}, "plan.buckets: expected ascending"),
        ({"buckets": [8]}, "plan.buckets"),
        ({"format": 2}, "plan.format: expected 1, got 2"),
        ({"colour": "blue"}, "plan: expected no field 'colour'"),
        ({"machine": None}, "plan.machine: expected an object"),
    ],
)
def test_a_plan_that_breaks_the_format_is_said(
    repository: ModelRepository, plan: TunedPlan, change: dict[str, object], said: str
) -> None:
    path = repository.plan_path("tiny", 1)
    path.write_text(json.dumps(dataclasses.asdict(plan) | change))
    with pytest.raises(ArtifactError) as refused:
        read_plan(repository, "tiny", 1)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b"null"])
def test_a_file_that_is_no_plan_is_said(repository: ModelRepository, content: bytes) -> None:
    publish_tiny(repository.root)
    repository.plan_path("tiny", 1).write_bytes(content)
    with pytest.raises(ArtifactError, match="expected a plan, got"):
        read_plan(repository, "tiny", 1)


def test_it_counts_for_the_same_bytes_on_the_same_machine_only(
    repository: ModelRepository, plan: TunedPlan
) -> None:
    artifact = repository.load("tiny", 1)
    assert plan.mismatch(artifact, MACHINE) is None
    others: dict[str, Any] = {
        "cpu": "another",
        "cores": 2,
        "workers": 2,
        "device": "gpu",
        "onnxruntime": "9",
    }
    for name, other in others.items():
        why = plan.mismatch(artifact, dataclasses.replace(MACHINE, **{name: other}))
        assert why is not None
        assert name in why
    for wrong in ({"sha256": "0" * 64}, {"model": "tiny:2"}, {"precision": "int8"}):
        why = dataclasses.replace(plan, **wrong).mismatch(artifact, MACHINE)  # type: ignore[arg-type]
        assert why is not None
        assert "other bytes" in why


def test_a_plan_is_told_in_two_lines(plan: TunedPlan) -> None:
    assert [text for _, text in tell_plan(plan)] == [
        "fp32, 2 x 1 threads, batches up to 7, waits 1.5 ms for company: "
        "1500 requests/s within 20 ms (+50% to the defaults)",
        "tuned 2026-11-21T12:00:00+00:00 on a processor, 4 cores, 1 workers, cpu, "
        "onnxruntime 1.2.3",
    ]
