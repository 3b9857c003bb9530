"""``.ci/run``: every test folder is in a stage, every stage runs, the last line counts tests."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / ".ci" / "run"
MAKE = """#!/bin/bash
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in
  check) exit "${CHECK:-0}" ;;
  *tests/models*) echo "1 failed, 5 passed, 2 errors in 1.00s" ; exit "${MODELS:-0}" ;;
  test*) echo "===== 10 passed, 1 skipped in 61.00s (0:01:01) =====" ;;
esac
"""


def run_ci(folder: Path, **environment: str) -> tuple[int, list[str], list[str]]:
    """Run the script with a ``make`` that only prints; return its code, lines and calls."""
    programs = {
        "make": MAKE,
        "tee": '#!/bin/sh\nsleep 0.2\nexec /usr/bin/tee "$@"\n',  # is behind what it reads
        **dict.fromkeys(("apt-get", "kubectl"), "#!/bin/sh\n"),
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [SCRIPT],
        env={"PATH": f"{folder}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), (folder / "calls").read_text().splitlines()


def test_every_test_file_is_in_one_stage() -> None:
    named = re.findall(r"tests/\w+(?:\*\.py)?", SCRIPT.read_text())
    folders = {
        f"tests/{path.name}"
        for path in (ROOT / "tests").iterdir()
        if path.is_dir() and any(path.rglob("test_*.py"))
    }
    assert sorted(named) == sorted([*folders, "tests/test_*.py"])


def test_the_last_line_counts_the_tests(tmp_path: Path) -> None:
    code, lines, calls = run_ci(tmp_path)
    stages = [line for line in lines if line.startswith("== stage: tests: ")]
    assert len(stages) == sum(call.startswith(("test ", "test-slow ")) for call in calls)
    assert code == 0
    assert lines[-1] == f"{10 * (len(stages) - 1) + 5} passed, 0 failed"


@pytest.mark.parametrize(
    ("environment", "name", "failed"),
    [
        ({"CHECK": "2"}, "format, lint, types", 1),
        ({"MODELS": "1"}, "tests: models, export, training", 3),
    ],
)
def test_a_failed_stage_is_named_and_the_rest_runs(
    tmp_path: Path, environment: dict[str, str], name: str, failed: int
) -> None:
    code, lines, calls = run_ci(tmp_path, **environment)
    assert code == 1
    assert lines[-2] == f"failed stage: {name}"
    assert lines[-1].endswith(f" passed, {failed} failed")
    assert any("tests/e2e" in call for call in calls)
