"""``foveal models`` on a repository of the test's own."""

import json
from pathlib import Path

import pytest

from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.shell import Shell
from tests.tiny import publish_tiny, random_images


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
    assert lines == [
        ["name", "version", "accuracy", "size", "answers"],
        ["other", "1", "-", "1", "KiB", "/models/other/predict"],
        ["tiny", "1", "-", "1", "KiB"],
        ["tiny", "2", "-", "1", "KiB", "/models/tiny/predict", "and", "/predict"],
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


def test_models_shadow_and_canary(shell: Shell, repository: ModelRepository) -> None:
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
