"""Reading and writing the files of models: nothing that is no file is opened, no half is left.

A kill or a power cut never leaves half of a written file.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# More than any file of a version that is read whole: protobuf ends at 2 GiB.
MOST_BYTES = 2 << 30
# Of room for results; with less, the disk is full.
_LEAST_FREE_BYTES = 1 << 20
# Longest wait for a lock that is held for milliseconds, seconds; then its holder hangs.
LOCK_S = 10.0


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a regular file whole; a link is followed.

    Args:
        path: File. A FIFO or a device, which might never end or never begin, is not read.
        most_bytes: Size above which it is not read.

    Raises:
        OSError: It cannot be read, is not a regular file, or is too large; ``strerror`` says which.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, _kind(found.st_mode), str(path))
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def hash_file(path: Path, size_bytes: int) -> str:
    """Return the sha256 of a regular file that is no link, however large, read in parts.

    Args:
        path: File.
        size_bytes: Its size; one of another size is not read.

    Raises:
        OSError: As ``read_file``, or it is a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        what = "a link" if error.errno == errno.ELOOP else error.strerror
        raise OSError(error.errno, what, str(path)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, _kind(found.st_mode), str(path))
        if found.st_size != size_bytes:
            raise OSError(errno.EINVAL, f"{found.st_size} bytes, not {size_bytes}", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")


def check_writable(folder: Path, option: str) -> None:
    """Check, before work that takes minutes, that its results will have a place.

    Args:
        folder: What is to be made or filled.
        option: What the user names it with.

    Raises:
        OSError: It, or what it would be made in, cannot be written, is full, or is no folder.
    """
    there = next(path for path in (folder, *folder.parents, Path()) if path.exists())
    if not there.is_dir():
        found = "a file"
    elif not os.access(there, os.W_OK) or not (disk := shutil.disk_usage(there)).total:
        found = "one that cannot be written"
    elif disk.free < _LEAST_FREE_BYTES:
        found = "a full disk"
    else:
        return
    said = f"expected a folder to write, got {found}; set {option}"
    raise OSError(errno.EACCES, said, str(there))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside ``path`` that replaces it when the block ends.

    Readers see the old file or the new one, even after a power cut. If the block raises, the new
    file is removed.

    Args:
        path: File to write; its folder must exist. The new file has mode 0644.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # names the file that the caller knows
        raise OSError(error.errno, error.strerror, str(path)) from None
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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made; the kernel gives it back when its holder ends.

    On NFS Linux asks the server for it, so it holds between machines. Where a file system has no
    locks, or the file cannot be made, the block runs without one.

    Raises:
        OSError: Another process has held it for ``LOCK_S``.
    """
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except PermissionError:  # another user's; NFS alone wants it to be writable
            descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # what the block writes fails by itself, with a better reason
        yield
        return
    try:
        _wait_for_lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                why = f"held by another process for {LOCK_S:.0f} s; end it, then retry"
                raise OSError(errno.EAGAIN, why, str(path)) from None
            time.sleep(0.01)
        except OSError:  # no locks here
            return


def why_not_writable(folder: Path) -> str:
    """Return why no file of a folder can be replaced, as the system says it; empty if it can be."""
    if os.access(folder, os.W_OK | os.X_OK):
        return ""
    try:
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError as error:
        return str(error.strerror)
    return os.strerror(errno.EROFS if is_read_only else errno.EACCES)


def write_atomically(path: Path, text: str) -> None:
    """Write a whole text file as UTF-8, or leave the old one; see ``replacing``."""
    with replacing(path) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Flush a file or directory to the disk, so that no later rename can survive without it."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
