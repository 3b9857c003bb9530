"""Recordings of a service as sources, and as files: images with what is true of them."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from models.image import encode_png
from scoring.files import FileSource, pin_files
from scoring.rows import Chunk, Pin, Row, ScoreError, chunked
from service.record.reading import RecordingError, read, tars_of
from service.record.sample import PIXELS, Sample, dump
from service.record.truths import Truth, Truths, read_truths

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError:  # the score extra is not installed
    pyarrow = None

# Rows of a Parquet file that are held until they are written.
_GROUP = 1024


class RecordedSource(FileSource):
    """The images of a recording, in its order; what was refused has none and is passed over."""

    def count(self) -> int | None:
        """Return None: only reading the whole recording would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``."""
        return chunked(islice(self._rows(), start, stop), is_declared=True)

    def pin(self) -> Pin:
        """Return a digest of its shards, their sizes and dates."""
        return pin_files(self.name, map(str, tars_of(Path(self._path))))

    def _rows(self) -> Iterator[Row]:
        path = Path(self._path)
        try:
            truths = read_truths(path)
            for entry in read(path):
                sample = entry.sample
                if sample.content:
                    yield Row(
                        name_of(sample), image_of(sample), truths.get((sample.id, sample.row))
                    )
        except RecordingError as error:
            raise ScoreError(str(error)) from None


def name_of(sample: Sample) -> str:
    """Return a row's id in tables: its request's, and the row's number if it is one of several."""
    return sample.id if sample.document["rows"] == 1 else f"{sample.id}#{sample.row}"


def image_of(sample: Sample) -> bytes:
    """Return a sample's encoded image; pixels become a PNG, which loses nothing.

    Raises:
        RecordingError: The pixels are damaged.
    """
    if sample.ending != PIXELS:
        return sample.content
    try:
        pixels = np.load(io.BytesIO(sample.content), allow_pickle=False)
        return encode_png(pixels)
    except (ValueError, EOFError, OSError, TypeError, IndexError) as error:
        raise RecordingError(f"{sample.key}.{PIXELS}: expected pixels, got {error}") from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is taken from a recording.

    Attributes:
        model: Only rows of this model, ``name`` or ``name:version``; empty: of all.
        truths: What is known to be true.
        is_labelled: Whether only rows are taken whose truth is known.
    """

    model: str
    truths: Truths
    is_labelled: bool = False

    def rows(self, recording: Path) -> Iterator[tuple[Sample, Truth | None]]:
        """Yield the samples that have an image, with their truth, None if it is not known."""
        for entry in read(recording):
            sample = entry.sample
            truth = self.truths.get((sample.id, sample.row))
            if sample.content and self.has(sample) and not (self.is_labelled and truth is None):
                yield sample, truth

    def has(self, sample: Sample) -> bool:
        """Whether a sample is of the model."""
        document = sample.document
        name, _, version = self.model.partition(":")
        return name in ("", document["model"]) and version in ("", str(document["version"]))


@dataclass(frozen=True, slots=True)
class Request:
    """One recorded request.

    Attributes:
        time: When it was received, seconds since 1970.
        images: Encoded.
        answered: Indexes of the label or labels that each got.
    """

    time: float
    images: list[bytes]
    answered: list[tuple[int, ...]]


def requests_of(recording: Path, wanted: Wanted, most_bytes: int) -> list[Request]:
    """Return the answered requests of a recording by their time; all rows of each together.

    Args:
        recording: A folder of shards, or one tar.
        wanted: Which rows.
        most_bytes: Bytes of images that may be held; the oldest requests are left out.

    Raises:
        RecordingError: There is no recording.
    """
    found: dict[tuple[str, float], Request] = {}
    held = 0
    for sample, _ in wanted.rows(recording):
        document = sample.document
        if not sample.is_answered:
            continue
        key = sample.id, float(document["time"])
        request = found.setdefault(key, Request(key[1], [], []))
        image = image_of(sample)
        held += len(image)
        request.images.append(image)
        request.answered.append(tuple(document.get("labels", [document["index"]])))
        while held > most_bytes and len(found) > 1:
            held -= sum(map(len, found.pop(next(iter(found))).images))
    return sorted(found.values(), key=lambda request: request.time)


def export(
    recording: Path, out: Path, wanted: Wanted, label_of: Callable[[Sample, Truth | None], str]
) -> int:
    """Write the rows of a recording as a table, as one tar, or as a folder of images.

    Args:
        recording: A folder of shards, or one tar.
        out: ``.parquet`` (needs pyarrow), ``.tar``, or a new folder: images by class where the
            truth is known.
        wanted: Which rows.
        label_of: Returns the label of a truth, "" if there is none.

    Returns:
        Rows written.

    Raises:
        RecordingError: There is no recording, or ``out`` exists.
    """
    if out.exists():
        raise RecordingError(f"{out}: expected a new file or folder, got one that exists")
    if out.suffix.lower() == ".parquet" and pyarrow is None:
        raise RecordingError(f"{out}: expected pyarrow to write it; pip install 'foveal[score]'")
    write = {".parquet": _to_parquet, ".tar": _to_tar}.get(out.suffix.lower(), _to_folder)
    rows = ((sample, truth, label_of(sample, truth)) for sample, truth in wanted.rows(recording))
    return write(out, rows)


_Labelled = Iterator[tuple[Sample, Truth | None, str]]


def _to_folder(out: Path, rows: _Labelled) -> int:
    count = 0
    out.mkdir(mode=0o700, parents=True)
    for sample, _, label in rows:
        folder = out / _folder_name(label) if label else out
        folder.mkdir(exist_ok=True)
        count += 1
        ending = "png" if sample.ending == PIXELS else sample.ending
        name = f"{sample.key}.{ending}"
        if (folder / name).exists():  # the same id in another shard
            name = f"{sample.key}-{count}.{ending}"
        (folder / name).write_bytes(image_of(sample))
    return count


def _folder_name(label: str) -> str:
    name = label.replace("/", "_").replace("\0", "_")
    return f"_{name}" if name.startswith(".") else name


def _to_tar(out: Path, rows: _Labelled) -> int:
    count = 0
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample, _, label in rows:
            files = {sample.ending: sample.content, "json": dump(sample.document)}
            if label:
                files["cls"] = label.encode()
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{sample.key}.{ending}")
                info.size, info.mtime = len(content), int(sample.document["time"])
                tar.addfile(info, io.BytesIO(content))
            count += 1
    return count


def _to_parquet(out: Path, rows: _Labelled) -> int:
    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    schema = pyarrow.schema(
        {
            "id": text,
            "row": whole,
            "time": real,
            "image": pyarrow.binary(),
            "label": text,
            "model": text,
            "version": whole,
            "protocol": text,
            "precision": text,
            "predicted": text,
            "predicted_index": whole,
            "probability": real,
            "probabilities": pyarrow.list_(pyarrow.float32()),
            "abstained": pyarrow.bool_(),
            "queue_ms": real,
            "run_ms": real,
        }
    )
    count = 0
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        while group := [_cells(*row) for row in islice(rows, _GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _cells(sample: Sample, _truth: Truth | None, label: str) -> dict[str, Any]:
    document = sample.document
    probabilities = document.get("probabilities")
    return {
        **document,
        "image": image_of(sample),
        "label": label or None,
        "predicted": document.get("label"),
        "predicted_index": document.get("index"),
        "probability": max(probabilities) if probabilities else None,
    }
