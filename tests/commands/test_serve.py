"""``foveal serve`` up to its start, and ``foveal predict``."""

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.server import free_port
from tests.shell import Shell
from tests.tiny import LABELS, publish_tiny, random_images, tiny_probabilities


def test_a_setting_that_is_wrong_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_THREADS", "many")
    said = shell("serve", "--port", free_port())
    assert said.code == 1
    assert said.error.startswith("FOVEAL_THREADS: ")


@pytest.mark.parametrize(
    "words", [("models", "list"), ("serve", "--port", "0"), ("predict", "x.png")], ids=" ".join
)
def test_a_setting_that_does_not_exist_is_named_by_every_command(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FOVEAL_MODLES", "here")
    monkeypatch.setenv("FOVEAL_PORT", "80")
    said = shell(*words)
    lines = (
        "FOVEAL_MODLES: expected the name of a setting, got none; did you mean FOVEAL_MODELS?",
        "FOVEAL_PORT: expected the name of a setting, got none; use `foveal serve --port`",
    )
    assert said == (1, "", "; ".join(lines) + "\n")
    assert shell.plain("help", "models").code == 0
    monkeypatch.delenv("FOVEAL_MODLES")
    monkeypatch.delenv("FOVEAL_PORT")
    monkeypatch.setenv("FOVEAL_HOST", "0.0.0.0")  # as in the image
    assert shell("models", "list").code == 0


def test_a_default_model_that_is_none_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEAL_DEFAULT_MODEL", "tinny")
    said = shell("serve", "--port", free_port())
    assert said == (1, "", "FOVEAL_DEFAULT_MODEL: expected one of tiny, got 'tinny'\n")


def test_a_port_in_use_is_reported(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = shell("serve", "--host", "127.0.0.1", "--port", port)
    assert said.code == 1
    assert said.error == (
        f"127.0.0.1:{port}: expected a free port of this machine, got: Address already in use; "
        "choose others with --host and --port\n"
    )


def test_a_dry_run_loads_what_would_be_served(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEAL_THREADS", "1")  # else they are measured, and two may be faster
    root = tmp_path / "models"
    for gain in (1.0, 2.0, 3.0):
        publish_tiny(root, gain=gain)
    repository = ModelRepository(root)
    repository.set_default("tiny", 2)
    repository.set_rollout("tiny", Rollout(canary=Share(3, 0.25)))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    said = shell("serve", "--dry-run", "--device", "cpu", models=root)
    assert (said.code, said.error) == (0, "")
    assert [line.split("  ")[0] for line in said.out.splitlines()] == [
        "version",
        "tiny:2",
        "tiny:3",
    ]
    assert "/models/tiny/predict and /predict  cpu, fp32, 1 threads" in said.out
    assert "0.25 as canary" in said.out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    (repository.path("tiny", 3) / "model.onnx").write_bytes(b"not a model")
    said = shell("serve", "--dry-run", "--device", "cpu", models=root)
    assert said.code == 1
    assert "tiny/3/model.onnx: expected the sha256" in said.out
    assert "tiny:1" in said.out, "the next one in its place"


def test_a_dry_run_checks_settings_and_candidates(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    publish_tiny(root)
    publish_tiny(root, task="multi-label")
    document = {
        "default_versions": {"tiny": 1},
        "traffic": {"tiny": {"shadow": {"version": 2, "fraction": 1}, "canary": None}},
    }
    (root / "repository.json").write_text(json.dumps(document))
    said = shell("serve", "--dry-run", "--device", "cpu", models=root)
    assert said.code == 1 and "no shadow: tiny:2: expected the images, labels" in said.out
    monkeypatch.setenv("FOVEAL_THREADS", "many")
    said = shell("serve", "--dry-run", models=root)
    assert (said.code, said.out) == (1, "")
    assert said.error.startswith("FOVEAL_THREADS: ")


def test_predict_prints_a_table(shell: Shell, image: Path) -> None:
    said = shell("predict", image, "--top", 2)
    assert (said.code, said.error) == (0, "")
    probabilities = tiny_probabilities(random_images(1))[0]
    first, second = (-probabilities).argsort()[:2]
    lines = [line.split() for line in said.out.splitlines()]
    assert lines == [
        ["image", "label", "probability"],
        [str(image), LABELS[first], f"{probabilities[first]:.4f}"],
        [LABELS[second], f"{probabilities[second]:.4f}"],
    ]


def test_predict_answers_good_images_beside_bad_ones(shell: Shell, tmp_path: Path) -> None:
    images = random_images(100)
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(encode_png(image))
    (tmp_path / "text.png").write_text("no image")
    paths[1:1] = [tmp_path / "missing.png", tmp_path / "text.png"]
    said = shell("predict", *paths, "--json")
    assert said.code == 3
    assert [line.split(": ")[0] for line in said.error.splitlines()] == list(map(str, paths[1:3]))
    document = said.document
    assert (document["model"], document["version"]) == ("tiny", 1)
    assert [result["image"] for result in document["results"]] == list(map(str, paths))
    assert [i for i, result in enumerate(document["results"]) if "error" in result] == [1, 2]
    good = [result["predictions"] for result in document["results"] if "error" not in result]
    expected_N = tiny_probabilities(images).argmax(axis=1).tolist()
    assert [predictions[0]["index"] for predictions in good] == expected_N


def test_predict_names_the_command_for_folders(shell: Shell, image: Path) -> None:
    said = shell("predict", image.parent, image)
    assert said.code == 3 and said.error.count("`foveal score` takes folders") == 1


def test_predict_says_when_the_url_is_no_service(shell: Shell, image: Path) -> None:
    said = shell("predict", image, "--url", f"http://127.0.0.1:{free_port()}")
    assert said.code == 1
    assert "expected a running service, got: Connection refused" in said.error


def test_ctrl_c_that_an_import_passed_over_stops_the_start(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def become(_: Sequence[str], last: Callable[[], None]) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        last()

    monkeypatch.setattr("service.launch.prepare", lambda *_: [])
    monkeypatch.setattr("service.launch.become_bentoml", become)
    said = shell("serve")
    assert (said.code, said.out) == (130, "")
    assert said.error == "foveal serve: stopped by Ctrl-C; repeat the command\n"
