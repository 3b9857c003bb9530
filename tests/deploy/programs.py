"""Programs that Debian ships and the tests of deploy/ run: prometheus, kubectl and others."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return where a program is; skip without it, but never in CI, which must install it."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed; .ci/run says which package has it"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return path


def run(*words: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a program that must succeed and return what it printed."""
    name, *rest = map(str, words)
    done = subprocess.run(
        [program(name), *rest],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{name} {rest}:\n{done.stdout}{done.stderr}"
    return done.stdout
