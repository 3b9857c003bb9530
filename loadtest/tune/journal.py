"""Every measurement on disk as it is made, one line of JSON each: a repeated command goes on.

The first line holds what the measurements depend on; if that differs, they are put aside.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from loadtest.tune.points import Configuration, Served, SessionFigure, SessionPoint

_NAME = "measurements.jsonl"


class Journal:
    """The measurements of one folder.

    Args:
        folder: Folder of the journal; created if missing.
        about: What the measurements depend on: model, files, machine, promise, axes.
        is_fresh: Start again, whatever the folder holds.

    Attributes:
        difference: Why older measurements were put aside, "" if none were.
        sessions: Measurements of the session alone.
        served: Measurements of the service by configuration, in the order of the rounds.
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, is_fresh: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _NAME
        self.difference = ""
        self.sessions: dict[SessionPoint, SessionFigure] = {}
        self.served: dict[Configuration, list[Served]] = {}
        about = json.loads(json.dumps(about))
        lines = _read(self._path)
        if lines and is_fresh:
            self.difference = "a fresh start was asked for"
        elif lines and lines[0] != {"about": about}:
            self.difference = _difference(lines[0].get("about", {}), about)
        if lines and not self.difference:
            for line in lines[1:]:
                self._take(line)
            # Rewritten without a last line that a kill cut off.
            self._path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        else:
            if lines:
                self._path.replace(self._path.with_suffix(".old.jsonl"))
            self._path.write_text("")
            self._append({"about": about})

    @property
    def is_empty(self) -> bool:
        """Whether there is no measurement yet."""
        return not self.sessions and not self.served

    def add_session(self, point: SessionPoint, figure: SessionFigure) -> None:
        """Add a measurement of the session alone."""
        self.sessions[point] = figure
        self._append({"point": dataclasses.asdict(point), "session": dataclasses.asdict(figure)})

    def add_served(self, configuration: Configuration, served: Served) -> None:
        """Add one round of the service."""
        self.served.setdefault(configuration, []).append(served)
        self._append(
            {
                "configuration": dataclasses.asdict(configuration),
                "served": dataclasses.asdict(served),
            }
        )

    def _take(self, line: dict[str, Any]) -> None:
        if "session" in line:
            self.sessions[SessionPoint(**line["point"])] = SessionFigure(**line["session"])
        else:
            chosen, served = line["configuration"], line["served"]
            served["trail"] = tuple(map(tuple, served["trail"]))
            self.served.setdefault(Configuration(**chosen), []).append(Served(**served))

    def _append(self, document: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(document) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a journal, up to the first that is not JSON."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    lines = []
    for line in text.split("\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [name for name in now if was.get(name) != now[name]]
    return "; ".join(f"{name} was {was.get(name)}, is {now[name]}" for name in changed) or "unknown"
