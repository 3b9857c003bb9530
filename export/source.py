"""Tell what a user gives to ``foveal adopt``: an ONNX file, or one of the forms of PyTorch.

Reads names and the first bytes, runs nothing.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.errors import AdoptError

Kind = Literal["make", "folder", "timm", "program", "torchscript", "pickle"]

# Pickle protocols 2 to 5, which torch.save wrote before it wrote archives.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_FOLDER = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class Source:
    """A model in PyTorch's world.

    Attributes:
        text: As the user wrote it.
        kind: ``make``: a function of a Python file; ``folder``: as transformers writes it;
            ``timm``: a name of timm's with a file of weights; ``program``: torch.export's file;
            ``torchscript``: torch.jit's file; ``pickle``: torch.save's file.
        path: The file, the folder or timm's name.
        function: Of ``make``: the function's name.
        weights: Of ``timm``: the file of its weights.
    """

    text: str
    kind: Kind
    path: str
    function: str = ""
    weights: Path | None = None


def read_source(text: str, weights: Path | None = None) -> Source | None:
    """Tell what was given; None: an ONNX file, or a file that does not exist.

    Args:
        text: What the user gave.
        weights: The value of ``--weights``.

    Raises:
        AdoptError: A form that lacks a part; the message has the line to paste.
    """
    if text.startswith("timm:"):
        if weights is None:
            raise AdoptError(f"{text}: expected --weights with a file of its weights, got none")
        if not weights.is_file():
            raise AdoptError(f"{weights}: expected a file of weights, got none")
        return Source(text, "timm", text.removeprefix("timm:"), weights=weights)
    if weights is not None:
        raise AdoptError(f"{text}: expected timm:NAME with --weights, got another form")
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        if not Path(file).is_file():
            raise AdoptError(f"{file}: expected a Python file, got none")
        if not function.isidentifier():
            raise AdoptError(f"{text}: expected FILE.py:FUNCTION, got {function!r} as the function")
        return Source(text, "make", file, function)
    path = Path(text)
    if path.suffix == ".py":
        raise AdoptError(f"{text}: expected FILE.py:FUNCTION, as in {text}:make, got no function")
    if path.is_dir():
        return Source(text, "folder", _check_folder(path))
    kind = _kind(path) if path.is_file() else None
    return None if kind is None else Source(text, kind, text)


def paste(path: Path) -> str:
    """Return the line that makes a file of weights adoptable."""
    return (
        "write eval.py with: def make(): net = YourNetwork(); "
        f"net.load_state_dict(torch.load({str(path)!r})); return net, your_transform; then run "
        "foveal adopt eval.py:make"
    )


def _check_folder(path: Path) -> str:
    missing = [name for name in _FOLDER if not (path / name).is_file()]
    # A large network's weights lie in several files, named by an index.
    if "model.safetensors" in missing and (path / "model.safetensors.index.json").is_file():
        missing.remove("model.safetensors")
    if missing:
        raise AdoptError(
            f"{path}: expected {', '.join(_FOLDER)}, got no {missing[0]}: write them with "
            "network.save_pretrained(FOLDER) and processor.save_pretrained(FOLDER)"
        )
    return str(path)


def _kind(path: Path) -> Kind | None:
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_PICKLES):
        return "pickle"
    if head != b"PK\x03\x04" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        # Every entry lies in one folder, whose name is the file's.
        names = {name.partition("/")[2] for name in archive.namelist()}
    if "archive_format" in names or any(name.startswith("models/") for name in names):
        return "program"
    if any(name.startswith("code/") for name in names):
        return "torchscript"
    return "pickle" if "data.pkl" in names else None
