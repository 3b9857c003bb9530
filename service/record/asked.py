"""One request that is to be recorded, as the event loop leaves it, and the samples made of it.

The loop only collects references; ``samples`` strips, encodes and ranks, on the writer's thread.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.abstain import is_answered
from models.artifact import ModelArtifact
from models.labels import are_given
from models.stripped import strip
from service.record.sample import PIXELS, ending_of, key_of

# What a request takes in the queue beside its images and probabilities, about.
BASE_BYTES = 1024
_ABLE = (b"\xff\xd8", b"\x89PNG", b"RIFF")


@dataclass(slots=True)
class Asked:
    """A request and its answer.

    Attributes:
        artifact: The version that answered.
        time: When it was received, seconds since 1970.
        id: Its ``X-Request-Id``.
        protocol: As metrics name it.
        status: Of the answer.
        error: Why there is none; empty if there is.
        rows: How many rows it had; of a refused one 1.
        images: Encoded, one a row; None: rows came as pixels, or the request was refused.
        pixels: uint8 [H, W, C] each, the answered ones in order; empty where ``images`` do.
        errors: A message or None for each row; None: all are good.
        probabilities_NK: float32 [N, K] of the answered rows, in order.
        precision: What ran.
        queue_ms: From acceptance to the run.
        run_ms: Of the run.
        batch_rows: Rows of that run.
    """

    artifact: ModelArtifact
    time: float
    id: str
    protocol: str
    status: int
    error: str = ""
    rows: int = 1
    images: Sequence[bytes] | None = None
    pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8] = ()
    errors: Sequence[str | None] | None = None
    probabilities_NK: NDArray[np.float32] | None = None
    precision: str = ""
    queue_ms: float = 0.0
    run_ms: float = 0.0
    batch_rows: int = 0
    shadow: tuple[int, frozenset[int]] | None = None

    @property
    def size(self) -> int:
        """Return about how many bytes it holds."""
        size = BASE_BYTES * self.rows
        if self.images is not None:
            size += sum(map(len, self.images))
        size += sum(row.nbytes for row in self.pixels)
        return size + (0 if self.probabilities_NK is None else self.probabilities_NK.nbytes)


def needs_pixels(encoded: bytes) -> bool:
    """Whether an image is of a format that cannot be stripped: its pixels are kept instead."""
    return not encoded.startswith(_ABLE)


def uncertain_rows(
    artifact: ModelArtifact, probabilities_NK: NDArray[np.float32], below: float
) -> set[int]:
    """Return the rows that are low in confidence, or from which the model abstained.

    A row's confidence is its largest probability; of a multi-label model the least certain label's,
    its probability or that of its absence.
    """
    if artifact.thresholds:
        confidence_N = np.maximum(probabilities_NK, 1 - probabilities_NK).min(axis=1)
    else:
        confidence_N = probabilities_NK.max(axis=1)
    is_uncertain_N = confidence_N < np.float32(below)
    if artifact.abstain is not None:
        is_uncertain_N |= ~is_answered(probabilities_NK.max(axis=1), artifact.abstain.threshold)
    return set(np.flatnonzero(is_uncertain_N).tolist())


def samples(
    asked: Asked, rows: set[int] | None, *, keeps_exif: bool
) -> Iterator[tuple[str, dict[str, Any], str, bytes]]:
    """Yield key, document, ending and content of each row.

    Args:
        asked: The request.
        rows: Which of its answered rows are kept; None: all, and those with an error.
        keeps_exif: Whether images are kept as they came.
    """
    id_, count = asked.id, asked.rows
    common: dict[str, Any] = {
        "id": id_,
        "row": 0,
        "rows": count,
        "time": round(asked.time, 6),
        "model": asked.artifact.name,
        "version": asked.artifact.version,
        "protocol": asked.protocol,
        "status": asked.status,
    }
    if asked.probabilities_NK is None:
        yield key_of(id_, 0, 1), {**common, "error": asked.error}, "", b""
        return
    common |= {
        "precision": asked.precision,
        "queue_ms": round(asked.queue_ms, 3),
        "run_ms": round(asked.run_ms, 3),
        "batch_rows": asked.batch_rows,
    }
    good = -1
    for row in range(count):
        document = {**common, "row": row}
        error = asked.errors[row] if asked.errors is not None else None
        if error is not None:
            if rows is None:
                yield key_of(id_, row, count), {**document, "error": error}, "", b""
            continue
        good += 1
        if rows is not None and good not in rows:
            continue
        _answer(document, asked, good)
        ending, content = _content(document, asked, row, good, keeps_exif=keeps_exif)
        yield key_of(id_, row, count), document, ending, content


def _answer(document: dict[str, Any], asked: Asked, good: int) -> None:
    """Add what the row was answered."""
    assert asked.probabilities_NK is not None, "only answered requests; this is a bug"
    probabilities_K = asked.probabilities_NK[good]
    artifact = asked.artifact
    if not np.isfinite(probabilities_K).all():
        document["error"] = "probability: expected numbers"
        return
    index = int(probabilities_K.argmax())
    document["index"], document["label"] = index, artifact.labels[index]
    if artifact.thresholds:
        given_K = are_given(probabilities_K[None], artifact.thresholds)[0]
        document["labels"] = np.flatnonzero(given_K).tolist()
    if artifact.abstain is not None:
        is_sure = is_answered(probabilities_K[index], artifact.abstain.threshold)
        document["abstained"] = not is_sure
    if asked.shadow is not None:
        version, differing = asked.shadow
        document["shadow"] = {"version": version, "differs": good in differing}
    document["probabilities"] = probabilities_K


def _content(
    document: dict[str, Any], asked: Asked, row: int, good: int, *, keeps_exif: bool
) -> tuple[str, bytes]:
    """Return ending and bytes of a row's file, and note in its document what it is."""
    if asked.images is not None:
        encoded = asked.images[row]
        if keeps_exif:
            document["file"] = ending_of(encoded)
            return document["file"], encoded
        stripped = strip(encoded)
        if stripped is not None:
            content, orientation = stripped
            document["file"] = ending_of(content)
            if orientation != 1:
                document["orientation"] = orientation
            if len(content) != len(encoded):
                document["stripped"] = len(encoded) - len(content)
            return document["file"], content
    if good >= len(asked.pixels):  # a JPEG without an end that decodes all the same
        return "", b""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(asked.pixels[good]), allow_pickle=False)
    document["file"] = PIXELS
    return PIXELS, file.getvalue()
