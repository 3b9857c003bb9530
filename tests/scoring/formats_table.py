"""What becomes of every kind of source, as a table: ``python -m tests.scoring.formats_table``.

Writes it to docs/reference/score-formats.md; a test compares it. An outcome counts only rows that
got the answer of their own image.
"""

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.generate import ROOT, write
from models.repository import ModelRepository
from scoring.job import Options, Summary, score
from scoring.local import LocalModel
from scoring.rows import ScoreError
from tests.scoring.kinds import BEST, KINDS, Kind, write_images
from tests.tiny import LABELS, publish_tiny

PAGE = ROOT / "docs" / "reference" / "score-formats.md"


def outcome(kind: Kind, folder: Path, model: LocalModel) -> str:
    """Score one kind and say what came of it."""
    folder.mkdir(parents=True)
    write_images(folder)
    out = folder / "out.jsonl"
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO())
    try:
        arguments = [str(each) for each in kind.build(folder)]
        sys.stdin = io.TextIOWrapper(io.BytesIO(kind.stdin(folder)))
        summary = score(arguments, model, out, Options(kind.columns))
    except ScoreError as error:
        return f"refused: {error}".replace(f"{folder}/", "")
    finally:
        sys.stdin = before
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return "; ".join(_said(summary, rows)).replace(f"{folder}/", "")


def _said(summary: Summary, rows: list[dict[str, Any]]) -> Iterator[str]:
    good = [row["index"] for row in rows if row["error"] is None]
    # Folders of labels are in the order of their names.
    is_right = good in (BEST, sorted(BEST, key=lambda index: LABELS[index]))
    yield f"{len(good)} rows" if is_right else f"WRONG answers {good}, expected {BEST}"
    if summary.accuracy is not None:
        yield f"{summary.accuracy['correct']} of {summary.accuracy['rows']} labels right"
    yield from (f"error: {row['error']}" for row in rows if row["error"] is not None)
    yield from (f"note: {note}" for note in summary.notes)


def outcomes(folder: Path) -> list[str]:
    """Return the outcome of every kind, in their order; they are made in a folder."""
    publish_tiny(folder / "models")
    model = LocalModel.load(ModelRepository(folder / "models"), threads=1)
    return [outcome(kind, folder / str(i), model) for i, kind in enumerate(KINDS)]


def lines(found: list[str]) -> str:
    """Return the table as Markdown."""
    rows = [
        f"| {kind.group} | {kind.name} | {said.replace('|', chr(92) + '|')} |"
        for kind, said in zip(KINDS, found, strict=True)
    ]
    return "\n".join(["| source | kind | outcome |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        write(PAGE, lines(outcomes(Path(root))))
