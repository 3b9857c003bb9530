"""A sample: one row that was asked and what it was answered, as a shard holds it.

``KEY.jpg`` (or another ending by the image's format, ``.npy`` for pixels) and ``KEY.json``. The
JSON alone for a request that was refused, and for a file that is no image. ``FIELDS`` says what is
in it; ``docs/record.md`` explains it to people.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import orjson

# Every field of a sample's JSON. Times are seconds since 1970; ``probabilities`` are all K of them,
# float32 as the shortest decimals that read back as the same bits.
FIELDS = (
    "id",
    "row",
    "rows",
    "time",
    "model",
    "version",
    "precision",
    "protocol",
    "status",
    "error",
    "queue_ms",
    "run_ms",
    "batch_rows",
    "label",
    "index",
    "labels",
    "abstained",
    "probabilities",
    "file",
    "orientation",
    "stripped",
    "shadow",
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
PIXELS = "npy"
# By the first bytes; simplest first. What is none of them is kept as ``.bin``.
_MAGIC = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a recording.

    Attributes:
        key: Name of its files in the shard, unique there.
        document: Its JSON; see ``FIELDS``.
        ending: Of its other file, without the dot; empty: it has none.
        content: That file's bytes.
    """

    key: str
    document: dict[str, Any]
    ending: str = ""
    content: bytes = b""

    @property
    def id(self) -> str:
        """Return the id of its request."""
        return str(self.document["id"])

    @property
    def row(self) -> int:
        """Return which row of the request it is, from 0."""
        return int(self.document["row"])

    @property
    def is_answered(self) -> bool:
        """Whether the model answered it."""
        return "probabilities" in self.document


def key_of(request_id: str, row: int, rows: int) -> str:
    """Return the name of a sample's files: the request's id where that is a plain name.

    WebDataset ends a key at the first dot, and tools make paths of it: an id with other characters
    is replaced by a digest. Of several rows each has its number.
    """
    key = request_id
    if not _PLAIN_KEY.fullmatch(key):
        key = "x" + hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    return key if rows == 1 else f"{key}-{row}"


def ending_of(encoded: bytes) -> str:
    """Return the ending for an encoded image, by its first bytes."""
    for magic, ending in _MAGIC:
        if encoded.startswith(magic):
            return ending
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "webp"
    if encoded[4:8] == b"ftyp":
        return "avif" if encoded[8:12] == b"avif" else "heic"
    return "ppm" if encoded[:1] == b"P" else "bin"


def dump(document: dict[str, Any]) -> bytes:
    """Return a document as JSON; NumPy's arrays are lists."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
