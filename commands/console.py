"""Output of the command line: errors on one line, results as a table or JSON.

All that commands print goes through here, so that no foreign text controls the terminal. Imports
only ``report.terminal`` of this project: errors are looked up by name in the modules that are
loaded.
"""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from report.terminal import printable, printable_json

# Errors whose message is for the user. Their modules are loaded if they were raised.
_MISTAKES = {
    "export.errors": "ExportError",
    "models.artifact": "ArtifactError",
    "service.access.keys": "KeysError",
    "service.errors": "ServiceError",
    "scoring.remote": "RemoteError",
    "service.record.reading": "RecordingError",
    "service.settings": "SettingsError",
    "scoring.rows": "ScoreError",
    "training.errors": "TrainingError",
    "loadtest.errors": "LoadTestError",
    "loadtest.tune.errors": "TuneError",
}
# Packages of the extra `train`.
_TRAIN = (
    "matplotlib",
    "onnxscript",
    "pooch",
    "pyarrow",
    "pytorch_lightning",
    "sklearn",
    "torch",
    "torchmetrics",
)
# What a shell says of a program that SIGPIPE ends: 128 + 13.
_READER_LEFT = 141
# Of a disk that takes no more: full, over a quota, above a limit of sizes, read-only.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What was expected of the file or folder that the system refuses.
_WANTED = {
    errno.ENOENT: "expected a file or folder that exists",
    errno.EEXIST: "expected a name that is free",
    errno.ENOTDIR: "expected a folder",
    errno.EISDIR: "expected a file",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "expected one that this user may use"),
    **dict.fromkeys(_DISK, "expected room and leave to write"),
}
# Packages of ours that are only in a checkout, not in a Bento or an image.
_ROOMS = ("export", "loadtest", "training")
# Package to the extra that installs it.
_EXTRAS = {
    **dict.fromkeys(_TRAIN, "train"),
    "jinja2": "loadtest",
    "onnx": "adopt",
    "onnxruntime": "cpu",
    "ray": "ray",
    **dict.fromkeys(("grpc", "tritonclient"), "grpc"),
}
# What draws reports is in two extras; these commands need the smaller one.
_DRAWN, _MEASURING = ("jinja2", "matplotlib"), ("loadtest", "tune", "bench")


def explain(error: Exception) -> str | None:
    """Return the message for the user, None if the error is a bug of ours."""
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, ModuleNotFoundError) and (message := _missing(error)):
        return message
    if isinstance(error, OSError) and (message := _refused(error)):
        return message
    imported = ((sys.modules.get(module), name) for module, name in _MISTAKES.items())
    mistakes = tuple(getattr(module, name) for module, name in imported if module is not None)
    return printable(str(error)) if isinstance(error, mistakes) else None


def _usage(error: typer.TyperException) -> str:
    """Return what is wrong with the command line; the library leaves out what it got."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    message = error.format_message()
    if context is None:
        return message
    if "\n" in message and parameter is None:  # a whole help text, to be shown as it is
        return message
    message = " ".join(message.split()).rstrip(".")  # a missing word's choices stand in lines
    if problems := getattr(error.__cause__, "errors", None):  # pydantic's
        said, value = problems()[0]["msg"].rstrip("."), problems()[0]["input"]
        wanted = said.partition(", unable")[0].replace("Input should be", "expected")
        if " is not one of " in said:
            wanted = "expected one of " + said.partition(" is not one of ")[2].replace("'", "")
        message = message.replace(" ".join(said.split()), f"{wanted}, got {str(value)[:80]!r}")
    return f"{context.command_path}: {message}; see {context.command_path} --help"


def _missing(error: ModuleNotFoundError) -> str:
    """Return what is not installed and what installs it, "" if that is a bug of ours."""
    from models.installation import how_to_add

    package = (error.name or "").split(".")[0]
    if package in _EXTRAS:
        extra = _EXTRAS[package]
        if package in _DRAWN and next(iter(sys.argv[1:]), "") in _MEASURING:
            extra = "loadtest"
        return f"foveal: expected the package {package}, got none; {how_to_add(extra)}"
    if error.name in _ROOMS:
        return (
            f"foveal: expected the package {package}, got none: a Bento and an image hold "
            "only what serves; run this command from a checkout"
        )
    return ""


def _refused(error: OSError) -> str:
    """Return what the system says of a file or a device, "" if it is neither."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        _, target, reason = error.args[0][0]  # the first of the files that were not copied
        return printable(f"{target}: {re.sub(r'^.Errno [0-9]+. |: .*', '', str(reason))}")
    if error.filename is not None:
        said, number = error.strerror, error.errno or 0
        if said == os.strerror(number):  # the system's words; ours say what was expected
            said = f"{_WANTED.get(number, 'expected one that can be used')}, got {said}"
        return printable(f"{os.fsdecode(error.filename)}: {said}")
    if error.errno in _DISK:
        return (
            f"foveal: expected room for what is written, got: {error.strerror}; free some, or "
            "write elsewhere"
        )
    return ""


def leave(code: int) -> NoReturn:
    """End the process, after what was printed has reached standard output.

    A reader that left early, as ``head`` does, is no error to talk about; a full device is.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        fail(error)
    sys.exit(code)


def fail(error: Exception) -> NoReturn:
    """Say in a line what is wrong, and end the process with the error's code.

    Raises:
        Exception: The error itself, if it is a bug of ours.
    """
    if isinstance(error, OSError) and error.filename is None:
        _discard_output()
    if isinstance(error, BrokenPipeError):
        sys.exit(_READER_LEFT)
    message = explain(error)
    if message is None:
        raise error
    for line in message.split("\n"):
        print_line(line, is_error=True)
    sys.exit(getattr(error, "exit_code", 1))


def _discard_output() -> None:
    """Let what is still buffered go nowhere: Python would write it again at its end, and fail."""
    if (descriptor := _descriptor(sys.stdout)) < 0:
        return
    with open(os.devnull, "wb") as null:  # noqa: PTH123 - a descriptor is all that is needed
        os.dup2(null.fileno(), descriptor)


def print_line(line: str, *, is_error: bool = False) -> None:
    """Print a line on standard output or standard error; foreign text in it cannot control it."""
    print(printable(line), file=sys.stderr if is_error else sys.stdout, flush=is_error)


def show(document: Any, as_json: bool, lines: Iterable[Sequence[str]]) -> None:
    """Print a document as JSON, or lines of cells as an aligned table."""
    if as_json:
        print(printable_json(json.dumps(document, indent=2, ensure_ascii=False)))
        return
    table = [[printable(cell) for cell in line] for line in lines]
    sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, sizes)).rstrip())


@contextmanager
def without_library_output() -> Iterator[None]:
    """Keep what C libraries write to standard error off it while the block runs.

    Decoders print there, a line or a million, with what an image holds; our error says it already.
    """
    if sys.stderr is None:
        yield
        return
    before = sys.stderr
    kept = os.dup(2)
    with open(os.devnull, "wb") as null:  # noqa: PTH123 - a descriptor is all that is needed
        os.dup2(null.fileno(), 2)
    try:
        if _descriptor(before) == 2:
            own = os.fdopen(os.dup(kept), "w", 1, before.encoding, before.errors)
            sys.stderr = own
        yield
    finally:
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)


def _descriptor(file: Any) -> int:
    try:
        return int(file.fileno())
    except (AttributeError, OSError, ValueError):
        return -1
