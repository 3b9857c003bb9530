"""Parts of an unfinished job, in a hidden folder beside the output, and what they are parts of.

A part is a file of finished rows and a ``.json`` that counts them. The count is written last, by a
rename, so a part is there whole or not at all, whenever the job is killed. ``job.json`` pins what
the job is: a job goes on only as the same job. Knows nothing about formats.
"""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scoring.rows import ScoreError
from scoring.tally import Tally

_JOB = "job.json"


class Parts:
    """The folder of one job; open it with ``with``, which keeps other processes out.

    Args:
        out: The file that the job is to write.
        pin: What the job is: names to values of JSON's types.
        resume: Whether parts of an earlier run of the same job are kept.

    Raises:
        ScoreError: Another process is at it, or there are parts of another job and ``resume``.
    """

    def __init__(self, out: Path, pin: dict[str, Any], *, resume: bool) -> None:
        self._out = out
        self._pin: dict[str, Any] = json.loads(json.dumps(pin))
        self._resume = resume
        self._folder = out.with_name(f".{out.name}.parts")
        self._lock = -1
        self.paths: list[Path] = []
        self.tally = Tally()
        self.position = 0, 0

    def __enter__(self) -> "Parts":
        """Lock the folder; find the parts that are there, or begin anew."""
        self._folder.mkdir(exist_ok=True)
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._begin()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Unlock the folder; remove it when the job is done or has nothing to go on from."""
        try:
            if kind is None or not self.paths:
                self._clear()
                self._folder.rmdir()
        finally:
            os.close(self._lock)

    def add(self, write: Callable[[Path], None], tally: Tally, position: tuple[int, int]) -> None:
        """Add a part.

        Args:
            write: Writes the rows to the path that it is given.
            tally: Counts them.
            position: Where a job goes on after them: number of a source, rows of it that are done.
        """
        path = self._folder / f"{len(self.paths):06}"
        write(path)
        _sync(path)
        _write_json(path.with_suffix(".json"), {**tally.to_json(), "position": position})
        self.paths.append(path)
        self.tally.add(tally)
        self.position = position

    def finish(self, join: Callable[[list[Path], Path], None]) -> None:
        """Put the output in its place.

        Args:
            join: Writes the rows of some parts to the path that it is given.
        """
        table = self._folder / "table"
        join(self.paths, table)
        _sync(table)
        table.replace(self._out)

    def _begin(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ScoreError(
                f"{self._out}: expected to be the only job that writes it, got another at work"
            ) from None
        job = self._folder / _JOB
        if self._resume and job.exists():
            _check_same(self._out, self._pin, json.loads(job.read_bytes()))
            self._find()
            return
        self._clear()
        _write_json(job, self._pin)

    def _clear(self) -> None:
        # Without its job no part counts: a kill in the midst of this leaves nothing to go on from.
        (self._folder / _JOB).unlink(missing_ok=True)
        for path in self._folder.iterdir():
            path.unlink()

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
        """Remove what is no part, so that it is not taken for one after the next kill."""
        known = {self._folder / _JOB, *self.paths, *(p.with_suffix(".json") for p in self.paths)}
        for path in self._folder.iterdir():
            if path not in known:
                path.unlink()


def _check_same(out: Path, pin: dict[str, Any], found: dict[str, Any]) -> None:
    for name in [*pin, *(name for name in found if name not in pin)]:
        was, now = found.get(name), pin.get(name)
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):  # of the two lists, what differs
            was, now = (
                [each for each in one if each not in other] or "nothing more"
                for one, other in ((was, now), (now, was))
            )
        raise ScoreError(
            f"{out}: --resume: expected the same {name} as when the job began, {_short(was)}, "
            f"got {_short(now)}; put it back, or leave --resume out to begin anew"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _write_json(path: Path, document: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document))
    _sync(new)
    new.replace(path)


def _sync(path: Path) -> None:
    """See to it that what a file holds would survive a power cut, before its name says so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
