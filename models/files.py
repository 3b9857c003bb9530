"""Writing files so that a kill or a power cut never leaves half of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside ``path`` that replaces it when the block ends.

    Readers see the old file or the new one, even after a power cut. If the block raises, the new
    file is removed.

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
    """Write a whole text file as UTF-8, or leave the old one; see ``replacing``."""
    with replacing(path) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Flush a file or directory to the disk, so that no later rename can survive without it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
