"""A user's environment: a Python with torch, torchvision, timm and transformers, without Foveal.

`make .venv/.user` installs what this project's own environment must not have: torchmetrics imports
torchvision where it is installed, and its compiled operators do not load with every build of torch.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.server import ROOT

PACKAGES = ROOT / ".venv" / "user"

# torchvision's compiled operators are built for another torch than a CPU's: they do not load, and
# its import fails where they are declared nowhere. No transform needs one.
_SITE = """
import importlib.util, re, sys
from pathlib import Path


class Declared:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            root = Path(importlib.util.find_spec("torchvision").origin).parent
            text = (root / "_meta_registrations.py").read_text()
            names = re.findall(r'"torchvision::(\\w+)"|register_meta\\("(\\w+)"\\)', text)
            self.library = torch.library.Library("torchvision", "DEF")
            for operator in sorted({first or second for first, second in names}):
                self.library.define(f"{operator}(Tensor x) -> Tensor")
            sys.declared = self
        return None


sys.meta_path.insert(0, Declared())
"""


def make_python(folder: Path) -> Path:
    """Return the Python of a new environment in a folder."""
    assert PACKAGES.is_dir(), f"expected packages in {PACKAGES}, got none; run make .venv/.user"
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(made, check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    shared = {place_of(package) for package in ("torch", "onnx", "onnxscript", "PIL", "numpy")}
    # A folder's own .pth files, by which Foveal is installed, are not read from here.
    (site / "user.pth").write_text("\n".join(map(str, [PACKAGES, *sorted(shared)])) + "\n")
    (site / "sitecustomize.py").write_text(_SITE)
    return folder / "bin" / "python"


def beside_foveal(folder: Path) -> dict[str, str]:
    """Return variables under which this Python finds the packages beside Foveal's own, too.

    Args:
        folder: An empty one, for what declares torchvision's operators.
    """
    assert PACKAGES.is_dir(), f"expected packages in {PACKAGES}, got none; run make .venv/.user"
    (folder / "sitecustomize.py").write_text(_SITE)
    return {"PYTHONPATH": os.pathsep.join(map(str, [folder, PACKAGES, ROOT]))}


def place_of(package: str) -> Path:
    """The folder that a package of this environment is installed in."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, package
    return Path(spec.origin).parent.parent
