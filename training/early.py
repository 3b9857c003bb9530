"""Mistakes in the options of ``train``, ``export`` and ``check`` that are seen before torch is.

Importing torch takes seconds. Imports only the standard library and what does; what passes here may
still be refused by the registry or the reader of its name.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.config import OPTIONS
from training.data_config import wrong_size
from training.errors import ConfigError, DatasetError, RunError

# Files of a run, which ``runs`` and ``checkpoints`` write.
OF_A_FINISHED_RUN = ("run.json", "evaluation.json")
OF_AN_INTERRUPTED_RUN = "checkpoints/last.ckpt"
_ON_DISK = ("folder", "parquet")
_PRECISIONS = ("fp32", "int8", "fp16")


def check_options(options: Mapping[str, Any]) -> None:
    """Check what was given on the command line; None was not.

    Args:
        options: Fields of ``TrainConfig`` to values; widths as tuples.

    Raises:
        ConfigError: A name does not exist, or a number is out of range.
        DatasetError: The dataset's folder or file does not exist.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if wrong := wrong_size(given.get("size")):
        raise ConfigError(wrong)
    check_dataset(str(given["dataset"]))
    for name, value in given.items():
        field = OPTIONS[name]
        if wrong := "" if value in field.option.aliases else field.check(value):
            raise ConfigError(wrong)
        plain = {word for word in field.option.names if word.islower()}
        # A name with a colon is timm's, or a function of the user's own.
        if field.option.names and name not in ("dataset", "freeze") and ":" not in str(value):
            _check_name(name, str(value), plain, field.option.names)


def check_dataset(name: str) -> None:
    """Check the name of a dataset, and that its folder or file exists.

    Raises:
        ConfigError: There is no such dataset.
        DatasetError: There is no such folder or file.
    """
    known = OPTIONS["dataset"].option.names
    kinds = {word.partition(":")[0].partition("[")[0] for word in known}
    kind, _, path = name.partition(":")
    _check_name("dataset", kind, kinds, known, name)
    if kind not in _ON_DISK:
        return
    if not path:
        raise ConfigError(f"dataset: expected one of {', '.join(sorted(known))}, got {name!r}")
    if not Path(path).exists():
        what = "a folder with one sub-folder per class" if kind == "folder" else "a file or folder"
        raise DatasetError(f"{path}: expected {what}, got No such file or directory")


def check_free(run: Path, *, resume: bool = False) -> None:
    """Refuse the folder of a run that would be lost.

    Args:
        run: Folder of the run that is about to begin.
        resume: Whether it goes on with an interrupted one.

    Raises:
        RunError: The folder has a finished run, or, without ``resume``, a checkpoint.
    """
    if (run / OF_A_FINISHED_RUN[-1]).exists():
        raise RunError(
            f"{run}: expected a new folder, got a finished run; choose another with --run, or "
            "throw it away with --overwrite"
        )
    if (run / OF_AN_INTERRUPTED_RUN).exists() and not resume:
        raise RunError(
            f"{run}: expected a new folder, got an interrupted run; go on with --resume, or throw "
            "it away with --overwrite"
        )


def check_finished(run: Path) -> None:
    """Check that a folder holds a finished run.

    Raises:
        RunError: It does not.
    """
    for name in OF_A_FINISHED_RUN:
        if not (run / name).is_file():
            raise RunError(
                f"{run / name}: expected a finished run, got no such file; run foveal train to its "
                "end"
            )


def check_precisions(words: str) -> None:
    """Check names of precisions with commas between them.

    Raises:
        ConfigError: There is no such precision.
    """
    for word in words.split(","):
        _check_name("precision", word.strip(), _PRECISIONS, _PRECISIONS)


def _check_name(
    option: str, word: str, exist: Iterable[str], known: Iterable[str], text: str = ""
) -> None:
    exist = sorted(exist)
    if word in exist:
        return
    near = difflib.get_close_matches(word, exist, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"{option}: expected one of {', '.join(sorted(known))}, got {(text or word)!r}{hint}"
    )
