"""What a start measured is found again by bytes, machine and settings alone."""

import dataclasses
from pathlib import Path

import pytest

from models.artifact import ModelArtifact
from models.machine import Machine
from models.measured import Measurement, read_measurement, write_measurement
from models.repository import ModelRepository
from tests.tiny import publish_tiny

MACHINE = Machine("EPYC", 2, 1, "cpu", "1.31.1")
ASKED = "fp32, 1 x 1 or 2 threads, batches up to 64, buckets none"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRepository:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return ModelRepository(tmp_path / "models")


@pytest.fixture
def artifact(repository: ModelRepository) -> ModelArtifact:
    return publish_tiny(repository.root)


def measurement(artifact: ModelArtifact) -> Measurement:
    return Measurement(artifact.fp32.sha256, MACHINE, ASKED, "fp32", 2, 0.5)


def test_it_is_kept_beside_the_version(
    repository: ModelRepository, artifact: ModelArtifact
) -> None:
    kept = measurement(artifact)
    before = repository.fingerprint("tiny", 1)
    path = write_measurement(repository, artifact, kept)
    assert path == repository.root / "tiny/measured-1.json"
    assert read_measurement(repository, artifact, MACHINE, ASKED) == kept
    assert repository.versions("tiny") == [1]
    assert repository.fingerprint("tiny", 1) == before, "a poll would load the version again"


def test_it_is_valid_for_nothing_else(repository: ModelRepository, artifact: ModelArtifact) -> None:
    write_measurement(repository, artifact, measurement(artifact))
    other = dataclasses.replace(MACHINE, cores=3)
    assert read_measurement(repository, artifact, other, ASKED) is None
    assert read_measurement(repository, artifact, MACHINE, ASKED + "!") is None
    again = publish_tiny(repository.root, gain=2.0)
    path = repository.measured_path("tiny", 1)
    path.rename(repository.measured_path("tiny", 2))
    assert read_measurement(repository, again, MACHINE, ASKED) is None


def test_a_repository_that_cannot_be_written_has_it_in_the_cache(
    repository: ModelRepository, artifact: ModelArtifact
) -> None:
    repository.measured_path("tiny", 1).mkdir()  # in the way of the file, for root, too
    path = write_measurement(repository, artifact, measurement(artifact))
    assert (
        path == repository.root.parent / f"home/.cache/foveal/measured/{artifact.fp32.sha256}.json"
    )
    assert read_measurement(repository, artifact, MACHINE, ASKED) == measurement(artifact)


def test_nowhere_to_keep_it_is_no_error(
    repository: ModelRepository, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.measured_path("tiny", 1).mkdir()
    monkeypatch.setenv("HOME", "/dev/null")
    assert write_measurement(repository, artifact, measurement(artifact)) is None
    assert read_measurement(repository, artifact, MACHINE, ASKED) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"threads": 2', '"threads": 0'),
        ('"full_batch_s": 0.5', '"full_batch_s": NaN'),
        ('"full_batch_s": 0.5', '"full_batch_s": "0.5"'),
        ('"precision": "fp32"', '"precision": "fp8"'),
        ('"format": 1', '"format": 2'),
        ("{", "["),
        ("{", "[" * 60_000),
        ("}", ""),
    ],
)
def test_a_broken_file_counts_as_none(
    repository: ModelRepository, artifact: ModelArtifact, old: str, new: str
) -> None:
    path = write_measurement(repository, artifact, measurement(artifact))
    assert path is not None
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert read_measurement(repository, artifact, MACHINE, ASKED) is None
    path.write_text(text)
    assert read_measurement(repository, artifact, MACHINE, ASKED) is not None
