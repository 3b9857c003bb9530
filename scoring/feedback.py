"""The truth about answers, from a CSV to a running service: what ``foveal feedback`` does."""

import csv
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scoring.remote import RemoteError, authorization, connect
from scoring.rows import ScoreError

# Truths in one request; the service takes some thousand.
_BATCH = 1000
_TRUTHS = ("label", "index", "labels", "indexes")
_COLUMNS = ("id", "row", *_TRUTHS)
# Between the labels of one row.
SEPARATOR = ";"


@dataclass(slots=True)
class Sent:
    """What became of the truths of a file.

    Attributes:
        counts: Rows by outcome: right, wrong, abstained, duplicate.
        refused: Line of the file and reason of each truth that was not counted.
    """

    counts: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[int, str]] = field(default_factory=list)


def send(path: Path, url: str, model: str) -> Sent:
    """Send the truths of a CSV with the columns id, row, and label or index.

    Args:
        path: The file; of a multi-label model, ``labels`` or ``indexes`` with ``;`` between.
        url: ``http://host:port``.
        model: Whose answers they are about.

    Raises:
        ScoreError: The file cannot be read, or lacks a column.
        RemoteError: There is no service, or it refuses the request.
    """
    connection, prefix = connect(url.rstrip("/"), 60)
    target = f"{prefix}/models/{quote(model, safe='')}/feedback"
    sent = Sent()
    try:
        truths = _truths(path, sent)
        while batch := list(islice(truths, _BATCH)):
            items = [item for _, item in batch]
            document = _post(connection, url, target, items)
            for outcome in ("right", "wrong", "abstained", "duplicate"):
                sent.counts[outcome] = sent.counts.get(outcome, 0) + int(document[outcome])
            sent.refused += [
                (batch[each["item"]][0], str(each["error"])) for each in document["refused"]
            ]
    except (ScoreError, RemoteError):
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RemoteError(
            f"{url}: expected a response of Foveal, got one without {error}; check the address"
        ) from error
    finally:
        connection.close()
    sent.refused.sort()
    return sent


def _truths(path: Path, sent: Sent) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and truth; a line that is none is noted as refused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if "id" not in names or not set(_TRUTHS) & set(names):
                raise ScoreError(
                    f"{path}: expected the columns id and label (or index), got "
                    f"{', '.join(names) or 'none'}"
                )
            for line in reader:
                try:
                    yield reader.line_num, _truth(line)
                except ValueError as error:
                    sent.refused.append((reader.line_num, str(error)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScoreError(f"{path}: expected a CSV of id and label, got: {reason}") from None


def _truth(line: dict[str, Any]) -> dict[str, Any]:
    """Return one line as the service takes it.

    Raises:
        ValueError: A number is none.
    """
    item: dict[str, Any] = {"id": line["id"]}
    if row := line.get("row"):
        item["row"] = _whole("row", row)
    # A label may be an empty text, and of several labels there may be none.
    kinds = [kind for kind in _TRUTHS if line.get(kind) is not None]
    kind = next((kind for kind in kinds if line[kind]), kinds[0] if kinds else "label")
    text = line.get(kind) or ""
    pieces = text.split(SEPARATOR) if text else []
    if kind == "index":
        item[kind] = _whole(kind, text)
    elif kind == "indexes":
        item[kind] = [_whole(kind, piece) for piece in pieces]
    else:
        item[kind] = pieces if kind == "labels" else text
    return item


def _whole(name: str, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"{name}: expected a whole number from 0, got {text[:40]!r}")
    return int(text)


def _post(
    connection: http.client.HTTPConnection, url: str, target: str, items: list[dict[str, Any]]
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | authorization()
    try:
        connection.request("POST", target, json.dumps(items).encode(), headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RemoteError(f"{url}: expected a running service, got: {reason}") from error
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RemoteError(
            f"{url}: expected a response of Foveal, got status {response.status}; check the address"
        )
    if response.status != 200:
        raise RemoteError(f"{url}: {document.get('error', response.status)}")
    return document
