"""How this program is installed: the folder that it is in, its version, and what adds an extra."""

import importlib.util
import sys
import sysconfig
import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

NAME = "foveal"
HOME = Path(__file__).resolve().parent.parent
"""Folder that has the packages: a checkout's root, a Bento's, an image's, or site-packages."""


def is_installed() -> bool:
    """Return whether this program is in an environment's packages, not in a folder of its own."""
    return str(HOME) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def is_checkout() -> bool:
    """Return whether this runs from a checkout, which has ``make`` and the benchmarks' sources."""
    return (HOME / "Makefile").is_file()


def how_to_add(extra: str) -> str:
    """Return the command that adds an extra where this runs: ``make install-train`` in a checkout.

    Elsewhere pip finds ``foveal[extra]`` among the installed packages, in no index.
    """
    return f"make install-{extra}" if is_checkout() else how_to_install(f"'{NAME}[{extra}]'")


def how_to_install(package: str) -> str:
    """Return the command that installs a package into the environment that this runs in."""
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return f"pipx runpip {NAME} install {package}"
    if importlib.util.find_spec("pip") is None:  # as uv makes environments
        return f"uv pip install --python {sys.executable} {package}"
    return f"{sys.executable} -m pip install {package}"


def version() -> str:
    """Return this program's version; a Bento and an image have it in their ``pyproject.toml``."""
    try:
        return version_of(NAME)
    except PackageNotFoundError:
        document = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))
        return str(document["project"]["version"])
