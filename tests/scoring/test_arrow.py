"""Arrow files: damage, what they announce, and columns of images that hold something else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pytest

from models.image import encode_png
from scoring.arrow import ArrowSource, saved_dataset
from scoring.columns import truths_of
from scoring.local import LocalModel
from scoring.rows import ScoreError
from scoring.tables import Columns
from tests.scoring.containers import read, run
from tests.server import ROOT
from tests.tiny import random_images, tiny_probabilities

IMAGES = random_images(30)
PNGS = [encode_png(image) for image in IMAGES]


def write(path: Path, table: Any, rows: int = 10, codec: str | None = None) -> Path:
    options = pyarrow.ipc.IpcWriteOptions(compression=codec)
    with pyarrow.ipc.new_stream(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def ids(source: ArrowSource, start: int = 0, stop: int | None = None) -> list[int]:
    return [int(i.rpartition("#")[2]) for chunk in source.chunks(start, stop) for i in chunk.ids]


@pytest.mark.parametrize("images", [PNGS, pyarrow.array(PNGS).dictionary_encode()])
def test_rows_are_counted_and_begin_anywhere(images: Any, tmp_path: Path) -> None:
    source = ArrowSource(str(write(tmp_path / "a.arrow", pyarrow.table({"x": images}))), Columns())
    assert source.count() == 30
    for start, stop in ((0, None), (7, 23), (10, 20), (29, 99), (30, None)):
        assert ids(source, start, stop) == list(range(30))[start:stop]


def test_a_damaged_file_is_rows_with_errors(model: LocalModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", pyarrow.table({"image": PNGS}))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    run([path], model, tmp_path / "out.jsonl")
    *good, bad = read(tmp_path / "out.jsonl")
    assert [row["error"] for row in good] == [None] * len(good)
    assert len(good) in (10, 20)
    assert bad["error"].startswith("table: expected a whole Arrow file, got: ")
    assert bad["id"] == f"{path}#{len(good)}"
    for content, match in (
        (b"", "got an empty file"),
        (b"no table at all", "expected an Arrow file, got"),
        (whole[:100], "expected an Arrow file, got"),
    ):
        path.write_bytes(content)
        with pytest.raises(ScoreError, match=match):
            ArrowSource(str(path), Columns())


def test_offsets_that_lead_out_of_a_batch_are_damage(model: LocalModel, tmp_path: Path) -> None:
    """pyarrow does not check them unless it is asked, and reads what lies there."""
    path = write(tmp_path / "a.arrow", pyarrow.table({"image": PNGS}), rows=30)
    offsets = np.cumsum([0, *map(len, PNGS)]).astype("<i4").tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    wrong = np.frombuffer(offsets, "<i4").copy()
    wrong[10:] += 1 << 30
    path.write_bytes(content.replace(offsets, wrong.tobytes()))
    run([path], model, tmp_path / "out.jsonl")
    errors = {row["error"] for row in read(tmp_path / "out.jsonl")}
    assert len(errors) == 1
    assert "expected a whole Arrow file, got: " in errors.pop()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_batch_that_expands_too_much_is_refused(codec: str, tmp_path: Path) -> None:
    """300 MB in a few KB, or in a MB with lz4."""
    images = pyarrow.array([bytes(10 << 20)] * 30)
    path = write(tmp_path / "a.arrow", pyarrow.table({"image": images}), 30, codec)
    assert path.stat().st_size < 3 << 20
    with pytest.raises(
        ScoreError, match=r"a batch of 31457[0-9]+ bytes, expected at most 100 times"
    ):
        ArrowSource(str(path), Columns())


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"image": pyarrow.nulls(1 << 21, "binary"), "n": pyarrow.nulls(1 << 21)})
    path = write(tmp_path / "a.arrow", table, 1 << 21, "zstd")
    with pytest.raises(ScoreError, match="expected 2097152 rows, as its header says, got a file"):
        ArrowSource(str(path), Columns())


def numbers(*images: object) -> Any:
    return pyarrow.array(images, pyarrow.list_(pyarrow.int64()))


def pixels(*images: object) -> Any:
    return pyarrow.array(images, pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.int16()))))


@pytest.mark.parametrize(
    ("column", "error"),
    [
        (numbers([256]), "expected whole numbers from 0 to 255, got"),
        (numbers([-1]), "expected whole numbers from 0 to 255, got"),
        (numbers([None]), "expected whole numbers from 0 to 255, got: one is missing"),
        (numbers([]), "image: expected an encoded image, got an empty body"),
        (numbers(None), "image: expected bytes or a path, got nothing"),
        (pixels([[[1, 2]]]), r"expected pixels [H, W], [H, W, 1] or [H, W, 3], at most"),
        (pixels([[[1] * 32] * 32] * 3), "got [3, 32, 32]; transpose it to [H, W, C]"),
        (pixels([[[1]], [[1], [2]]]), "image: expected rows of one length, got others"),
        (pixels([]), "image: expected rows of one length, got others"),
        (pixels(None), "image: expected bytes or a path, got nothing"),
    ],
)
def test_what_is_no_image_is_an_error_of_its_row(
    column: Any, error: str, model: LocalModel, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.arrow", pyarrow.table({"image": column}))
    run([path], model, tmp_path / "out.jsonl")
    [row] = read(tmp_path / "out.jsonl")
    assert error in row["error"] or ("empty" in error and "empty" in row["error"]), row


def test_pixels_of_any_shape_are_images(model: LocalModel, tmp_path: Path) -> None:
    shapes = ([8, 8, 1], [8, 8, 1], [16, 8, 3])
    images = [IMAGES[0], IMAGES[1], np.repeat(np.repeat(IMAGES[2], 2, 0), 3, 2)]
    assert [list(image.shape) for image in images] == list(shapes)
    path = write(
        tmp_path / "a.arrow", pyarrow.table({"image": pixels(*(i.tolist() for i in images))})
    )
    run([path], model, tmp_path / "out.jsonl")
    best = tiny_probabilities(IMAGES[:3]).argmax(axis=1).tolist()
    assert [row["index"] for row in read(tmp_path / "out.jsonl")] == best


def test_boxes_and_embeddings_are_no_images(tmp_path: Path) -> None:
    table = pyarrow.table({"boxes": [[1, 2], [3, 4]], "jpeg": PNGS[:2], "n": [1.0, 2.0]})
    source = ArrowSource(str(write(tmp_path / "a.arrow", table)), Columns())
    assert [image for chunk in source.chunks() for image in chunk.images] == PNGS[:2]
    with pytest.raises(ScoreError, match='column "n": expected binary, text, lists of 0-255 or'):
        ArrowSource(str(tmp_path / "a.arrow"), Columns(image="n"))


def test_the_column_that_the_dataset_calls_an_image_is_it(tmp_path: Path) -> None:
    features = {"photo": {"_type": "Image"}, "path": {"_type": "Value"}}
    table = pyarrow.table({"path": ["x", "y"], "photo": PNGS[:2]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    source = ArrowSource(str(write(tmp_path / "a.arrow", table)), Columns())
    assert [image for chunk in source.chunks() for image in chunk.images] == PNGS[:2]


def test_fields_of_structs_are_columns(tmp_path: Path) -> None:
    about = [{"who": "a", "label": {"name": "top"}}, {"who": "b", "label": None}]
    table = pyarrow.table({"image": PNGS[:2], "about": about, "a.b": [1, 2]})
    columns = Columns("", "about.label.name", "about.who", ("a.b", "about.who", "about.none"))
    source = ArrowSource(str(write(tmp_path / "a.arrow", table)), columns)
    [chunk] = source.chunks()
    assert (chunk.ids, chunk.truths) == (["a", "b"], ["top", None])
    assert chunk.kept == [(1, "a", None), (2, "b", None)]
    assert source.kinds() == {"a.b": "int64", "about.who": "string"}


def test_a_saved_dataset_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    assert saved_dataset(str(folder)) is None
    (folder / "dataset_info.json").write_text("{}")
    names = ["../x.arrow", "/etc/passwd", "..", "", 7, "a.arrow", "b.arrow"]
    state: dict[str, Any] = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(state))
    assert saved_dataset(str(folder)) == [f"{folder}/a.arrow", f"{folder}/b.arrow"]
    (folder / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{}]}))
    with pytest.raises(ScoreError, match="call flatten_indices"):
        saved_dataset(str(folder))
    (folder / "state.json").write_text("[" * 100_000)
    assert saved_dataset(str(folder)) is None


@pytest.mark.parametrize("kind", ["int16", "int32", "int64"])
def test_runs_are_their_values_wherever_they_are_cut(kind: str) -> None:
    values = ["a", "a", None, "b", "b", "b", None, None, "a"]
    runs = pyarrow.RunEndEncodedArray.from_arrays(
        pyarrow.array([2, 3, 6, 8, 9], kind), ["a", None, "b", None, "a"]
    )
    for start in range(10):
        for stop in range(start, 10):
            cut = runs.slice(start, stop - start)
            assert truths_of(cut, ()) == values[start:stop]


def test_a_job_that_needs_no_computing_of_arrow_does_not_import_it() -> None:
    """It takes longer than all of scoring."""
    said = "import sys, scoring.job; print('pyarrow.compute' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", said], cwd=ROOT) == b"False\n"
