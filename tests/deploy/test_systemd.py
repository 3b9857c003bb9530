"""The systemd unit, by systemd's own checker and by the settings that it must go with."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings
from tests.places import BENTOML, ROOT

UNIT = (ROOT / "deploy/systemd/foveal.service").read_text()
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs Debian's package systemd"
)


def seconds(name: str) -> float:
    (value,) = re.findall(rf"^{name}=(\d+)$", UNIT, re.MULTILINE)
    return float(value)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit with the paths of this checkout, whose programs are there."""
    path = tmp_path / "foveal.service"
    text = UNIT.replace("/opt/foveal/.venv/bin", str(BENTOML.parent))
    path.write_text(text.replace("/opt/foveal", str(ROOT)))
    return path


def analyze(*words: object) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
def test_systemd_takes_it_without_a_word(here: Path) -> None:
    assert analyze("verify", "--man=no", here) == ""


@needs_systemd
def test_it_exposes_little(here: Path) -> None:
    """Of 10, where nothing is restricted; what is left is that it listens on the network."""
    said = analyze("security", "--offline=true", "--threshold=20", "--no-pager", here)
    assert float(re.findall(r"exposure level for foveal.service: (\S+)", said)[0]) <= 1.5


def test_it_waits_for_the_drain_and_for_ready() -> None:
    assert seconds("TimeoutStopSec") > Settings.model_fields["drain_timeout_s"].default + 5
    wait = re.findall(r"^ExecStartPost=.* --wait (\d+) ", UNIT, re.MULTILINE)
    assert float(wait[0]) < seconds("TimeoutStartSec")
