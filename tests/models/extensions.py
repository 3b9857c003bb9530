"""The C extensions, built from their sources: those of the environment may be older ones."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from tests.server import ROOT


def build(folder: Path, environment: Mapping[str, str]) -> list[Path]:
    """Build the extensions as an installation does; return the files that came of it."""
    program = (
        "import sys; from setuptools import setup;"
        "sys.argv = ['setup.py', '-q', 'build', '-b', sys.argv[1], 'build_ext', '-b', sys.argv[1]];"
        "setup()"
    )
    words = [sys.executable, "-c", program, str(folder)]
    subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    return sorted(folder.glob("models/_*.so"))


def load(name: str, built: list[Path]) -> ModuleType:
    """Import one of the extensions that were built."""
    (file,) = [path for path in built if path.name.startswith(f"{name}.")]
    spec = importlib.util.spec_from_file_location(f"models.{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def need_compiler() -> None:
    """Skip a test where no extension can be built."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which("cc") is None or not headers.is_file():
        pytest.skip("needs a C compiler and Python's headers")
