"""A dated results file: a table to read, the JSON to compute with, and what it was measured on."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.machine import machine_line

RESULTS = Path(__file__).resolve().parent / "results"


def write(
    name: str,
    title: str,
    command: str,
    table: str,
    results: dict[str, Any],
    picture: bytes | None = None,
) -> Path:
    """Write ``NAME_<date>.md`` and ``.json`` into ``results/``, and a picture if there is one.

    Args:
        name: Name of the benchmark.
        title: Heading of the text.
        command: Command that repeats it.
        table: Markdown.
        results: Contents of the JSON; ``machine``, ``date`` and ``command`` are added.
        picture: PNG, shown above the table.

    Returns:
        The path of the text.
    """
    now = datetime.now(UTC)
    results |= {
        "machine": machine_line(),
        "date": now.isoformat(timespec="seconds"),
        "command": command,
    }
    stem = RESULTS / f"{name}_{now:%Y-%m-%d_%H%M}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    shown = ""
    if picture is not None:
        stem.with_suffix(".png").write_bytes(picture)
        shown = f"![{title}]({stem.name}.png)\n\n"
    text = f"# {title}\n\n{results['machine']}, {results['date']}, `{command}`\n\n{shown}{table}"
    stem.with_suffix(".md").write_text(text)
    return stem.with_suffix(".md")
