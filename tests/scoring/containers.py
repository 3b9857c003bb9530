"""The same images in every kind of source, and the rows that come out of a job."""

import csv
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from models.image import encode_png
from scoring.job import Options, Summary, score
from scoring.local import LocalModel
from tests.tiny import LABELS

Row = dict[str, Any]

# Good images of the fixture `files`.
COUNT = 140


def write_images(folder: Path, images_NHWC: NDArray[np.uint8]) -> list[Path]:
    """One PNG an image; two files that are none in their midst."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images_NHWC):
        (folder / f"{i:04}.png").write_bytes(encode_png(image))
    whole = (folder / "0007.png").read_bytes()
    (folder / "0007-truncated.png").write_bytes(whole[: len(whole) - 20])
    (folder / "0011-empty.png").write_bytes(b"")
    return sorted(folder.iterdir())


def as_tar(path: Path, files: list[Path], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in files:
            tar.add(file, f"images/{file.name}")
    return path


def as_zip(path: Path, files: list[Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("images")
        for file in files:
            archive.write(file, f"images/{file.name}")
    return path


def as_parquet(path: Path, files: list[Path], group_rows: int = 50, **columns: list[Any]) -> Path:
    """The struct {bytes, path}, as Hugging Face's datasets have it."""
    cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
    table = pyarrow.table({"image": cells, **columns})
    pyarrow.parquet.write_table(table, path, row_group_size=group_rows)
    return path


def as_plain_parquet(path: Path, files: list[Path]) -> Path:
    table = pyarrow.table({"n": range(len(files)), "jpeg": [file.read_bytes() for file in files]})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    return path


def as_paths_parquet(path: Path, files: list[Path]) -> Path:
    table = pyarrow.table({"file": [str(file.relative_to(path.parent)) for file in files]})
    pyarrow.parquet.write_table(table, path)
    return path


def as_csv(path: Path, files: list[Path], **columns: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["path", *columns])
        names = [str(image.relative_to(path.parent)) for image in files]
        writer.writerows(zip(names, *columns.values(), strict=True))
    return path


def as_npz(path: Path, images: NDArray[np.uint8], labels: Any = None) -> Path:
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez_compressed(path, **arrays)
    return path


def wds_tar(path: Path, images_NHWC: NDArray[np.uint8], labels: list[int]) -> Path:
    """Samples as WebDataset writes them: key.cls, key.json, key.png, ordered by name."""
    with tarfile.open(path, "w") as tar:
        for i, (image, label) in enumerate(zip(images_NHWC, labels, strict=True)):
            for ending, content in (
                ("cls", b"%d\n" % label),
                ("json", b"{}"),
                ("png", encode_png(image)),
            ):
                info = tarfile.TarInfo(f"{i:05}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def read(out: Path) -> list[Row]:
    """Read any of the formats back; CSV's text as the types that the others carry."""
    if out.suffix == ".parquet":
        rows: list[Row] = pyarrow.parquet.read_table(out).to_pylist()
        return rows
    if out.suffix == ".jsonl":
        return [orjson.loads(line) for line in out.read_bytes().splitlines()]
    kinds = {"index": int, "probability": float, "version": int}
    with out.open(newline="") as file:
        return [
            {k: kinds.get(k, str)(v) if v else None for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def run(sources: list[Any], model: LocalModel, out: Path, **options: Any) -> Summary:
    """Score; many tests write one file again and again."""
    options = {"overwrite": True, **options}
    return score([str(source) for source in sources], model, out, Options(**options))


def rows_of(sources: list[Any], model: LocalModel, folder: Path, **options: Any) -> list[Row]:
    """Score and read, without what differs between sources: the ids."""
    out = folder / "rows.parquet"
    run(sources, model, out, **options)
    rows = read(out)
    out.unlink()
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def true_label(index: int) -> str:
    return LABELS[index]
