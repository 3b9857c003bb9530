"""Files that systems and tools leave beside images, told by their names; they are no rows.

Knows no file system.
"""

import re

from models.image import ENDINGS

# Windows, macOS and Synology; then Spark and the writers of Parquet; then what datasets come with.
_FILES = re.compile(
    r"""
    \..* | (eh)?thumbs(_vista)?\.db.* | desktop\.ini | icon\r
    | _success | _(common_)?metadata | _(started|committed)_.* | _symlink_format_manifest
    | (readme|licen[cs]e)([._ -].*)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("_delta_log", "_spark_metadata", "_temporary", "_symlink_format_manifest"),
    }
)


def is_junk(path: str) -> bool:
    """Whether a file is left by a system or a tool, or is hidden.

    Args:
        path: Its path within the source, with ``/``.
    """
    folders, _, name = path.rpartition("/")
    if _FILES.fullmatch(name) and (name[:1] == "." or ending(name) not in ENDINGS):
        return True
    return bool(folders) and any(part.lower() in _FOLDERS for part in folders.split("/"))


def is_in_hidden_folder(path: str) -> bool:
    """Whether a folder on the way to a file is hidden.

    Args:
        path: Of the file within the source, with ``/``.
    """
    folders = path.removeprefix("./").rpartition("/")[0]
    return "." in folders and any(part.startswith(".") for part in folders.split("/"))


def ending(name: str) -> str:
    """Return the ending of a file's name, in lower case and without its dot."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()
