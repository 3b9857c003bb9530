"""Writing files so that a kill or a power cut never leaves half of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside ``path`` that takes its place when the block ends.

    Readers see the old file or the new one, also after a power cut. The new file is removed if the
    block raises.

    Args:
        path: File to write; its folder must exist. The new file has mode 0644.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.chmod(0o644)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; see ``replacing``."""
    with replacing(path) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Flush a file or directory to the disk, so that no later rename can survive without it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
