"""An environment that has only what a page says to install, with what those packages need.

Its packages are links to those of this environment, so it takes no network and less than a second;
a package that nobody named cannot be imported there.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def make_python(folder: Path, requirements: Iterable[str]) -> Path:
    """Return the Python of a new environment in a folder.

    Args:
        folder: One that does not exist.
        requirements: What ``pip install`` is given; versions are those that are installed here.

    Raises:
        PackageNotFoundError: One of them, not something that it needs, is not installed here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    for name in requirements:
        distribution(Requirement(name).name)
    for found in closure(requirements):
        for file in found.files or ():
            first = file.parts[0]
            target = Path(str(found.locate_file(first)))
            if first not in ("..", "__pycache__") and not (site / first).exists():
                (site / first).symlink_to(target)
    return folder / "bin" / "python"


def closure(requirements: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions that these need; what is missing is left out."""
    todo, seen = [Requirement(each) for each in requirements], set[tuple[str, str]]()
    found: dict[str, Distribution] = {}
    while todo:
        wanted = todo.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of an extra that this environment resolved otherwise
            continue
        for extra in {"", *wanted.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            for text in found[name].requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return list(found.values())
