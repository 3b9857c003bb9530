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
    why = "it has other labels and task than version 1"
    assert said.error == f"tiny:3 gets no share of the requests now: {why}\n" and said.code == 0
    assert listed()["tiny:3"] == f"0.1 as canary: no effect, {why}"
    assert listed()["tiny:1"] == "/models/tiny/predict (pinned)"
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
