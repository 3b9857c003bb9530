"""A repository behind symbolic links is followed anew at each poll: publishing flips a link."""

import shutil
import sys
from pathlib import Path

import httpx
import pytest

from loadtest.serving import running_service
from models.image import encode_png
from tests.guarded import until
from tests.places import ROOT
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = pytest.mark.e2e

IMAGE = random_images(1, seed=51)[0]
PNG = encode_png(IMAGE)


def flip(link: Path, target: Path | str) -> None:
    """Lead a link elsewhere in one step, as git-sync and Kubernetes do."""
    fresh = link.with_name(f"{link.name}.tmp")
    fresh.symlink_to(target)
    fresh.replace(link)


def publish(root: Path, name: str, *gains: float) -> None:
    """Publish a version for each gain."""
    for gain in gains:
        publish_tiny(root, name, gain=gain)


@pytest.mark.thorough
def test_links_that_flip_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (
        ("BENTOML_HOME", str(tmp_path / "bentoml")),
        ("FOVEAL_RELOAD_S", "0.2"),
        ("FOVEAL_WORKERS", "2"),
        ("FOVEAL_DEVICE", "cpu"),
    ):
        monkeypatch.setenv(variable, value)
    link = tmp_path / "current"
    publish(tmp_path / "trees/a/models", "tiny", 1.0)
    flip(link, "trees/a")
    words = [sys.executable, str(ROOT / "foveal.py"), "serve", "--models", str(link / "models")]
    with running_service(words, tmp_path / "log") as url:
        has_served = False  # until then a second worker may still load

        def wait_for(name: str, version: int, gain: float) -> None:
            """Until both workers answer by that version, with its gain; no request fails."""

            def are_there() -> bool:
                said = [httpx.post(f"{url}/models/{name}/predict", content=PNG) for _ in range(8)]
                got = {answer.status_code for answer in said}
                assert got <= {200, 404 if has_served else 503}, said[0].text
                if got != {200}:  # not yet
                    return False
                for answer in said:
                    if answer.json()["version"] != version:
                        return False
                    try:
                        assert_own_result(answer.json()["results"][0], IMAGE, gain=gain)
                    except AssertionError:
                        return False
                return True

            log = (tmp_path / "log").read_text
            until(are_there, f"{name}:{version} does not answer by {gain}", 20)
            assert "refused" not in log(), log()

        wait_for("tiny", 1, 1.0)
        has_served = True

        # The whole tree is another one, and the old one is gone.
        publish(tmp_path / "trees/b/models", "tiny", 1.0, 2.0)
        flip(link, "trees/b")
        shutil.rmtree(tmp_path / "trees/a")
        wait_for("tiny", 2, 2.0)

        # A mounted volume: each entry leads to ..data, which leads to a folder with a date.
        root = tmp_path / "trees/b/models"
        publish(root / "..one", "mounted", 1.0)
        flip(root / "..data", "..one")
        flip(root / "mounted", "..data/mounted")
        wait_for("mounted", 1, 1.0)
        publish(root / "..two", "mounted", 1.0, -1.0)
        flip(root / "..data", "..two")
        wait_for("mounted", 2, -1.0)

        # Back, to another content of the same number: it is not taken for the loaded one.
        publish(tmp_path / "trees/c/models", "tiny", 3.0)
        flip(link, "trees/c")
        wait_for("tiny", 1, 3.0)
        wait_for("mounted", 2, -1.0)  # it is no longer there, and served until it is unloaded
