"""Write requirements.txt: what serving installs, every distribution at its exact version.

The closure of pyproject.toml's dependencies and of the extras that ship (cpu, grpc), read from the
environment this runs in, at the versions of constraints.txt. The Bento and the image install it.

    python deploy/requirements.py > deploy/requirements.txt
"""

import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cpu", "grpc")
HEAD = "# Made by deploy/requirements.py from pyproject.toml and constraints.txt; Linux.\n"


def write() -> str:
    """Return the text of requirements.txt.

    Raises:
        KeyError: A distribution is needed that constraints.txt does not pin.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"]]
    for extra in EXTRAS:
        waiting += project["optional-dependencies"][extra]
    pins = _pins()
    seen: set[str] = set()
    names: set[str] = set()
    while waiting:
        line = waiting.pop()
        requirement = Requirement(line)
        if line in seen or not _applies(requirement, ""):
            continue
        seen.add(line)
        names.add(canonicalize_name(requirement.name))
        for needed in requires(requirement.name) or ():
            wanted = Requirement(needed)
            if any(_applies(wanted, extra) for extra in ("", *requirement.extras)):
                wanted.marker = None
                waiting.append(str(wanted))
    return HEAD + "".join(f"{pins[name]}\n" for name in sorted(names))


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(pin.partition("==")[0]): pin for pin in pins}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


if __name__ == "__main__":
    print(write(), end="")
