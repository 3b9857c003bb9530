"""Parts of an unfinished job, in a hidden folder beside the output.

A part is a file of finished rows and a ``.json`` that counts them. The count is written last, by a
rename, so a part is there whole or not at all, whenever the job is killed. ``job.json`` pins what
the job is: only the same job may resume. Knows nothing about formats.
"""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from models.files import sync, write_atomically
from scoring.rows import ScoreError
from scoring.tally import Tally

_JOB = "job.json"
_MARKS = "decoding"


class Parts:
    """The folder of one job; ``with`` locks it against other processes.

    Args:
        out: File that the job writes.
        pin: What identifies the job: names to values of JSON's types.
        resume: Whether to keep the parts of an earlier run of the same job.

    Attributes:
        marks: Where the rows that are being decoded are noted; kept for a resume.

    Raises:
        ScoreError: Another process has the lock, the folder is not this user's alone, or with
            ``resume`` the parts are another job's.
    """

    def __init__(self, out: Path, pin: dict[str, Any], *, resume: bool) -> None:
        self._out = out
        self._pin: dict[str, Any] = json.loads(json.dumps(pin))
        self._resume = resume
        self._folder = folder_of(out)
        self._lock = -1
        self.marks = self._folder / _MARKS
        self.paths: list[Path] = []
        self.tally = Tally()
        self.position = 0, 0

    def __enter__(self) -> "Parts":
        """Lock the folder; find its parts, or remove them and start again."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._lock = os.open(self._folder, flags)
        except OSError:  # a link or a file
            raise self._not_own("what is no folder") from None
        try:
            self._check_own()
            self._begin()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Unlock the folder; remove it if the job is done or has no part to resume from."""
        try:
            if kind is None or not self.paths:
                self._clear()
                self._folder.rmdir()
        finally:
            os.close(self._lock)

    def add(
        self, write: Callable[[BinaryIO], None], tally: Tally, position: tuple[int, int]
    ) -> None:
        """Add a part.

        Args:
            write: Writes the rows to the given file.
            tally: Their counts.
            position: Where a job resumes after them: number of a source, finished rows of it.
        """
        self._check_own()
        path = self._folder / f"{len(self.paths):06}"
        with path.open("wb") as file:  # pyarrow cannot open a path that is not UTF-8
            write(file)
        sync(path)
        count = json.dumps({**tally.to_json(), "position": position})
        write_atomically(path.with_suffix(".json"), count)
        self.paths.append(path)
        self.tally.add(tally)
        self.position = position

    def finish(self, write: Callable[[list[Path], Path], None]) -> None:
        """Move the output to its place.

        Args:
            write: Writes the rows of the parts; may use a file at the given path on the way.
        """
        self._check_own()
        write(self.paths, self._folder / "table")

    def _check_own(self) -> None:
        """Refuse a folder into which others could put links, and one that has been exchanged."""
        opened, found = os.fstat(self._lock), os.lstat(self._folder)
        if not os.path.samestat(opened, found):
            raise self._not_own("another one in its place")
        if opened.st_uid != os.geteuid():
            raise self._not_own(f"one of user {opened.st_uid}")
        if opened.st_mode & 0o022:
            raise self._not_own("one that others may write to")

    def _not_own(self, got: str) -> ScoreError:
        return ScoreError(
            f"{self._folder}: expected a folder that only you may write to, for the unfinished "
            f"rows of {self._out.name}, got {got}; remove it, or write elsewhere"
        )

    def _begin(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ScoreError(
                f"{self._out}: expected to be the only job that writes it, got another one"
            ) from None
        job = self._folder / _JOB
        if self._resume and job.exists():
            _check_same(self._out, self._pin, json.loads(job.read_bytes()))
            self._find()
            return
        self._clear()
        write_atomically(job, json.dumps(self._pin))

    def _clear(self) -> None:
        self._check_own()
        # No part counts without job.json: a kill during this loop leaves nothing to resume from.
        (self._folder / _JOB).unlink(missing_ok=True)
        for name in os.listdir(self._lock):  # noqa: PTH208 - of what was checked, whatever its path
            os.unlink(name, dir_fd=self._lock)

    def _find(self) -> None:
        while True:
            path = self._folder / f"{len(self.paths):06}"
            count = path.with_suffix(".json")
            if not count.exists() or not path.exists():
                self._forget_others()
                return
            document = json.loads(count.read_bytes())
            self.tally.add(Tally.from_json(document))
            self.position = document["position"][0], document["position"][1]
            self.paths.append(path)

    def _forget_others(self) -> None:
        """Remove all but the parts, so that nothing is taken for one after the next kill."""
        known = {
            self._folder / _JOB,
            self.marks,
            *self.paths,
            *(p.with_suffix(".json") for p in self.paths),
        }
        for path in self._folder.iterdir():
            if path not in known:
                path.unlink()


def folder_of(out: Path) -> Path:
    """Return the folder of the parts of a job that writes a file."""
    return out.with_name(f".{out.name}.parts")


def has_job(out: Path) -> bool:
    """Whether a job that writes a file has begun and not ended."""
    return (folder_of(out) / _JOB).exists()


def has_rows(out: Path) -> bool:
    """Whether a job that writes a file has begun, not ended, and finished some rows."""
    return has_job(out) and any(folder_of(out).glob("[0-9]*.json"))


def _check_same(out: Path, pin: dict[str, Any], found: dict[str, Any]) -> None:
    for name in [*pin, *(name for name in found if name not in pin)]:
        was, now = found.get(name), pin.get(name)
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):  # show only what differs
            was, now = (
                [each for each in one if each not in other] or "nothing more"
                for one, other in ((was, now), (now, was))
            )
        raise ScoreError(
            f"{out}: --resume: expected the same {name} as when the job began, {_short(was)}, "
            f"got {_short(now)}; restore it, or start again without --resume"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
