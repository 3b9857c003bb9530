"""``foveal models`` on a repository of the test's own."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.artifact import ModelArtifact
from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.shell import Shell
from tests.tiny import build_tiny, publish_tiny, random_images, tiny_model


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """One of the test's own, to change."""
    root = tmp_path / "models"
    publish_tiny(root)
    publish_tiny(root, gain=2.0)
    publish_tiny(root, "other")
    return ModelRepository(root)


def test_models_list_shows_routes(shell: Shell, repository: ModelRepository) -> None:
    repository.set_default("tiny")
    said = shell("models", "list", models=repository.root)
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    used = sum(
        path.stat().st_blocks * 512
        for path in (repository.path("tiny", 1), *repository.path("tiny", 1).rglob("*"))
    )
    disk = [str(math.ceil(used / 1024)), "KiB"]  # golden images and model.json, too
    assert lines == [
        ["name", "version", "accuracy", "size", "disk", "answers"],
        ["other", "1", "-", "1", "KiB", *disk, "/models/other/predict"],
        ["tiny", "1", "-", "1", "KiB", *disk],
        ["tiny", "2", "-", "1", "KiB", *disk, "/models/tiny/predict", "and", "/predict"],
    ]
    document = shell("models", "list", "--json", models=repository.root).document
    assert [(e["name"], e["version"], len(e["routes"])) for e in document] == [
        ("other", 1, 1),
        ("tiny", 1, 0),
        ("tiny", 2, 2),
    ]


def test_models_default_and_rollback(shell: Shell, repository: ModelRepository) -> None:
    assert shell("models", "default", "other", models=repository.root).code == 0
    assert repository.default_model() == "other"
    said = shell("models", "rollback", "tiny", models=repository.root)
    when = "a running service reloads it within FOVEAL_RELOAD_S seconds"
    assert said == (0, f"tiny:1 is served; {when}\n", "")
    assert repository.resolve("tiny") == ("tiny", 1)
    assert shell("models", "default", "tiny", 2, models=repository.root).code == 0
    assert repository.resolve("tiny") == ("tiny", 2)


def test_models_unpin(shell: Shell, repository: ModelRepository) -> None:
    repository.set_default("other")
    for pinned in (1, 7):  # the second is gone, as a folder that was deleted is
        document = {"default_model": "other", "default_versions": {"tiny": pinned, "other": 1}}
        (repository.root / "repository.json").write_text(json.dumps(document))
        said = shell("models", "list", models=repository.root)
        assert said.code == (pinned == 7)
        assert said.out.count("(pinned)") == (2 if pinned == 1 else 1)
        said = shell("models", "unpin", "tiny", models=repository.root)
        when = "a running service reloads it within FOVEAL_RELOAD_S seconds"
        assert said == (0, f"tiny:2 is served, and any newer version; {when}\n", "")
        assert repository.settings().default_versions == {"other": 1}
        assert repository.settings().default_model == "other"
    publish_tiny(repository.root)
    assert repository.resolve("tiny") == ("tiny", 3)
    assert shell("models", "unpin", "tiny", models=repository.root).code == 0
    said = shell("models", "unpin", "none", models=repository.root)
    assert said.code == 1 and 'model "none": expected one of other, tiny' in said.error


def test_models_list_and_show_tell_what_a_rollout_does(
    shell: Shell, repository: ModelRepository
) -> None:
    def listed() -> dict[str, str]:
        rows = shell("models", "list", "--json", models=repository.root).document
        return {f"{row['name']}:{row['version']}": " and ".join(row["routes"]) for row in rows}

    root = repository.root
    publish_tiny(root, "tiny", task="binary")
    repository.set_default("tiny", 1)
    repository.set_rollout("tiny", Rollout(shadow=Share(2, 0.5), canary=Share(2, 0.1)))
    taken = "/models/tiny/predict (pinned, all but 0.1, which version 2 answers)"
    assert listed() == {
        "other:1": "/models/other/predict",
        "tiny:1": taken,
        "tiny:2": "0.5 as shadow and 0.1 as canary",
        "tiny:3": "",
    }
    for version, answers in ((1, taken), (3, "only requests that name the version")):
        said = shell("models", "show", f"tiny:{version}", models=root)
        assert said.out.splitlines()[1].split(maxsplit=1) == ["answers", answers]
    document = shell("models", "show", "tiny:2", "--json", models=root).document
    assert document["answers"] == ["0.5 as shadow", "0.1 as canary"]

    said = shell("models", "canary", "tiny", 3, 0.1, models=root)
    why = "tiny:3: expected the images, labels and task of tiny:1, got "
    assert said.error.startswith(why) and said.code == 1
    # A share that was given while another version served has no effect.
    repository.set_default("tiny", 3)
    assert listed()["tiny:2"].startswith("0.5 as shadow: no effect, tiny:2: expected the images")
    assert listed()["tiny:3"] == "/models/tiny/predict (pinned)"
    repository.set_default("tiny", 1)
    repository.set_rollout("tiny", Rollout(canary=Share(1, 0.1)))
    repository.set_default("tiny")
    assert listed()["tiny:1"] == (
        "/models/tiny/predict and /predict (pinned) and "
        "0.1 as canary: no effect, it is the served version"
    )
    (root / "repository.json").unlink()
    (root / "other").rename(root / ".other")
    assert listed()["tiny:3"] == "/models/tiny/predict and /predict", "the only model"


def test_models_shadow_and_canary(shell: Shell, repository: ModelRepository) -> None:
    repository.set_default("tiny", 1)
    said = shell("models", "canary", "tiny", 2, 0.1, models=repository.root)
    when = "a running service reloads it within FOVEAL_RELOAD_S seconds"
    assert said == (0, f"tiny:2 is canary of 0.1 of the requests; {when}\n", "")
    assert shell("models", "shadow", "tiny", 1, 1, models=repository.root).code == 0
    traffic = Rollout(shadow=Share(1, 1.0), canary=Share(2, 0.1))
    assert repository.settings().rollouts == {"tiny": traffic}
    said = shell("models", "list", models=repository.root)
    assert "1 as shadow" in said.out and "0.1 as canary" in said.out
    assert shell("models", "canary", "tiny", 2, 0, models=repository.root).code == 0
    assert repository.settings().rollouts == {"tiny": Rollout(shadow=Share(1, 1.0))}
    said = shell("models", "canary", "tiny", 9, 0.1, models=repository.root)
    assert said.code == 1 and "no version 9; available: 1, 2" in said.error
    assert shell("models", "canary", "tiny", 2, 1.5, models=repository.root).code == 2


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_a_candidate_that_cannot_be_compared_is_refused(
    shell: Shell, repository: ModelRepository, kind: str
) -> None:
    """At once and with the reason; one that differs in scaled decoding or precision can be."""

    def publish(**changes: Any) -> int:
        def build(folder: Path, version: int) -> ModelArtifact:
            return replace(build_tiny(folder, "tiny", version, tiny_model()), **changes)

        return repository.publish("tiny", build).version

    image, labels = repository.load("tiny", 1).image, repository.load("tiny", 1).labels
    repository.set_default("tiny", 1)
    cases = [
        (publish(labels=("a", *labels[1:]), golden=()), 'got "a" as label 0, not "top"'),
        (publish(image=replace(image, exif=False)), "got image.exif False, not True"),
        (
            publish_tiny(repository.root, task="multi-label").version,
            "got the task multi-label, not single-label",
        ),
    ]
    for version, reason in cases:
        said = shell("models", kind, "tiny", version, 0.1, models=repository.root)
        expected = f"tiny:{version}: expected the images, labels and task of tiny:1, {reason}\n"
        assert said == (1, "", expected)
    assert not repository.settings().rollouts
    scaled = publish(image=replace(image, scaled_decoding=not image.scaled_decoding))
    assert shell("models", kind, "tiny", scaled, 0.1, models=repository.root).code == 0


def test_a_candidate_ends_although_the_other_cannot_be_compared(
    shell: Shell, repository: ModelRepository
) -> None:
    repository.set_default("tiny", 1)
    other = publish_tiny(repository.root, task="multi-label").version
    traffic = {"tiny": {"shadow": {"version": other, "fraction": 1}, "canary": None}}
    document = {"default_versions": {"tiny": 1}, "traffic": traffic}
    (repository.root / "repository.json").write_text(json.dumps(document))
    assert shell("models", "canary", "tiny", 2, 0.5, models=repository.root).code == 0
    assert shell("models", "canary", "tiny", 2, 0, models=repository.root).code == 0
    assert shell("models", "shadow", "tiny", other, 0, models=repository.root).code == 0
    assert set(repository.settings().rollouts) <= {"tiny"}


def test_models_prune_keeps_what_is_in_use(shell: Shell, repository: ModelRepository) -> None:
    for _ in range(8):  # 3 to 10
        publish_tiny(repository.root)
    repository.set_default("tiny", 2)
    repository.set_rollout("tiny", Rollout(shadow=Share(4, 1.0), canary=Share(5, 0.1)))
    (repository.path("tiny", 10) / "model.onnx").write_bytes(b"not a model")
    repository.measured_path("tiny", 3).write_text("{}")
    said = shell("models", "prune", "tiny", "--keep", 2, "--dry-run", models=repository.root)
    assert said.code == 0 and "tiny:7 would be deleted" in said.out
    assert len(repository.versions("tiny")) == 10
    said = shell("models", "prune", "tiny", "--keep", 2, models=repository.root)
    assert (said.code, said.error) == (0, "")
    assert [line.split(" ")[0] for line in said.out.splitlines()] == [
        f"tiny:{version}" for version in (1, 3, 6, 7)
    ]
    assert repository.versions("tiny") == [2, 4, 5, 8, 9, 10]  # the last one can't be served
    assert not repository.measured_path("tiny", 3).exists()
    assert {path.name for path in (repository.root / "tiny").iterdir()} == {
        *map(str, repository.versions("tiny"))
    }
    said = shell("models", "prune", "tiny", "--keep", 2, models=repository.root)
    assert said == (0, "tiny: nothing to delete\n", "")
    assert shell("models", "prune", "tiny", "--keep", 0, models=repository.root).code == 2
    said = shell("models", "prune", "none", "--keep", 1, models=repository.root)
    assert said.code == 1 and 'model "none": expected one of other, tiny' in said.error


def test_models_prune_deletes_a_link_and_not_what_it_leads_to(
    shell: Shell, repository: ModelRepository, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    repository.path("tiny", 1).rename(elsewhere)
    repository.path("tiny", 1).symlink_to(elsewhere)
    assert shell("models", "prune", "tiny", "--keep", 1, models=repository.root).code == 0
    assert repository.versions("tiny") == [2] and (elsewhere / "model.json").exists()


def test_models_show_prints_labels_shapes_files_and_plan(shell: Shell) -> None:
    said = shell("models", "show", "tiny:2")
    assert said.code == 0
    for text in ("tiny:2", "top, upper, lower, bottom", "UINT8 [-1, 8, 8, 1]", "model.onnx: fp32"):
        assert text in said.out
    document = shell("models", "show", "tiny:2", "--json").document
    assert (document["version"], document["plan"]) == (2, None)


def test_models_verify_finds_what_is_wrong(shell: Shell, repository: ModelRepository) -> None:
    assert shell("models", "verify", models=repository.root) == (
        0,
        "other:1  ok\ntiny:1   ok\ntiny:2   ok\n",
        "",
    )
    golden = repository.path("tiny", 2) / "golden/3.png"
    golden.write_bytes(encode_png(random_images(1)[0]))
    said = shell("models", "verify", "--json", models=repository.root)
    assert said.code == 1
    assert said.document["tiny:1"] == said.document["other:1"] == "ok"
    assert said.document["tiny:2"].startswith(f"{golden}: expected the sha256 ")
    assert shell("models", "verify", "tiny:1", models=repository.root).code == 0
    assert shell("models", "verify", "tiny", models=repository.root).code == 1


def test_models_verify_replays_the_golden_images(shell: Shell, repository: ModelRepository) -> None:
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    document["golden"][0]["probabilities"] = [0.25, 0.25, 0.25, 0.25]
    path.write_text(json.dumps(document))
    said = shell("models", "verify", "tiny:1", models=repository.root)
    assert said.code == 1
    assert "golden image golden/0.png: expected the recorded probabilities" in said.out
