import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pyarrow.parquet
import pytest
from onnx import numpy_helper

from models.image import encode_png
from models.repository import ModelRepository
from scoring.engine import LocalEngine
from scoring.job import Options, Progress, Summary, score
from scoring.local import LocalModel
from scoring.rows import ScoreError
from scoring.sinks import COLUMNS
from scoring.stages import OutputOptions
from service.errors import InferenceError
from tests.scoring.containers import read
from tests.server import RunningServer
from tests.tiny import (
    LABELS,
    model_without_black,
    publish_tiny,
    random_images,
    tiny_model,
    tiny_probabilities,
)

COUNT = 150  # two full batches and a part of one
FORMATS = (".parquet", ".csv", ".jsonl")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def model(tiny_repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(tiny_repository), "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images, and three files that are none in their midst."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(random_images(COUNT)):
        (folder / f"{i:03}.png").write_bytes(encode_png(image))
    whole = (folder / "007.png").read_bytes()
    (folder / "007-truncated.png").write_bytes(whole[: len(whole) - 20])
    (folder / "064-empty.png").write_bytes(b"")
    (folder / "149-text.txt").write_text("no image")
    return folder


def run(folder: Path | str, model: LocalModel, out: Path, **options: Any) -> Summary:
    return score([str(folder)], model, out, **options)


@pytest.mark.parametrize("ending", FORMATS)
def test_each_row_is_the_closed_form_of_its_own_file(
    folder: Path, model: LocalModel, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"scores{ending}"
    summary = run(folder, model, out)
    assert (summary.rows, summary.errors) == (COUNT + 3, 3)
    rows = read(out)
    assert [row["id"] for row in rows] == sorted(map(str, folder.iterdir()))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {(row["model"], row["version"]) for row in rows} == {("tiny", 1)}
    good = [row for row in rows if row["error"] is None]
    expected_NK = tiny_probabilities(random_images(COUNT))
    assert [row["index"] for row in good] == expected_NK.argmax(axis=1).tolist()
    assert [row["label"] for row in good] == [LABELS[row["index"]] for row in good]
    np.testing.assert_allclose(
        [row["probability"] for row in good], expected_NK.max(axis=1), rtol=0, atol=1e-6
    )


def test_all_formats_hold_the_same_float32(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    tables = []
    for ending in FORMATS:
        run(folder, model, tmp_path / f"scores{ending}")
        tables.append(read(tmp_path / f"scores{ending}"))
    for rows in tables:
        for row in rows:
            if row["probability"] is not None:
                row["probability"] = np.float32(row["probability"])
    assert tables[0] == tables[1] == tables[2]
    text = (tmp_path / "scores.jsonl").read_text().splitlines()[0]
    shortest = str(tables[0][0]["probability"])
    assert f'"probability":{shortest},' in text, "expected the shortest decimal of the float32"


def test_parquet_columns_are_typed(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    run(folder, model, tmp_path / "scores.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "scores.parquet")
    assert [str(field.type) for field in schema] == [
        "string",
        "string",
        "int32",
        "float",
        "string",
        "string",
        "int32",
    ]


def test_bad_files_are_rows_with_an_error(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    run(folder, model, tmp_path / "scores.jsonl")
    bad = {Path(row["id"]).name: row for row in read(tmp_path / "scores.jsonl") if row["error"]}
    assert list(bad) == ["007-truncated.png", "064-empty.png", "149-text.txt"]
    for row in bad.values():
        assert (row["label"], row["index"], row["probability"]) == (None, None, None)
    assert "truncated or corrupt" in bad["007-truncated.png"]["error"]
    assert "empty" in bad["064-empty.png"]["error"]
    assert "expected JPEG, PNG, WebP, GIF, BMP, TIFF or PPM" in bad["149-text.txt"]["error"]


@pytest.mark.parametrize("ending", FORMATS)
def test_neither_threads_nor_parts_change_a_byte(
    folder: Path, model: LocalModel, tmp_path: Path, ending: str
) -> None:
    written = set()
    for threads, part_rows in ((1, 0), (2, 1), (7, 65)):
        out = tmp_path / f"scores{ending}"
        engine = LocalEngine(model, OutputOptions(), threads)
        run(folder, model, out, options=Options(part_rows=part_rows, overwrite=True), engine=engine)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_progress_counts_every_row(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(folder, model, tmp_path / "scores.csv", on_progress=seen.append)
    assert [now.rows for now in seen] == sorted(now.rows for now in seen)
    assert seen[-1] == Progress(rows=COUNT + 3, errors=3, total=COUNT + 3)


def test_a_folder_of_nothing_but_bad_files_is_scored(model: LocalModel, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "text.png").write_text("no image")
    os.mkfifo(folder / "pipe")
    summary = run(folder, model, tmp_path / "scores.csv")
    assert (summary.rows, summary.errors) == (2, 2)


def test_text_that_csv_must_quote_survives(model: LocalModel, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = ['a,"b".png', "line\nbreak.png", "grün 緑.png"]
    for name in names:
        (folder / name).write_bytes(encode_png(random_images(1)[0]))
    for ending in FORMATS:
        out = tmp_path / f"scores{ending}"
        run(folder, model, out)
        assert sorted(Path(row["id"]).name for row in read(out)) == sorted(names)


def test_out_is_refused_before_any_work(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    for out, match in (
        (tmp_path / "scores.xlsx", r"ends in .parquet, .csv, .jsonl, got '.xlsx'"),
        (tmp_path / "none" / "scores.csv", "got no folder"),
        (tmp_path, "got ''"),
    ):
        with pytest.raises(ScoreError, match=match):
            run(folder, model, out)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ScoreError, match="got a folder of that name"):
        run(folder, model, tmp_path / "folder.csv")


def without_batches() -> onnx.ModelProto:
    """The tiny model, but its graph takes one row a run only, which the self-test does not see."""
    model = tiny_model()
    stripes = next(i for i in model.graph.initializer if i.name == "stripes")
    stripes.CopyFrom(numpy_helper.from_array(np.array([1, 4, 16]), "stripes"))
    return model


def test_a_failed_run_leaves_the_old_table_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "models", model=without_batches())
    model = LocalModel.load(ModelRepository(tmp_path / "models"))
    for ending in FORMATS:
        out = tmp_path / "out" / f"scores{ending}"
        out.parent.mkdir(exist_ok=True)
        out.write_text("of an earlier run")
        with pytest.raises(InferenceError, match=r"run of batch \(6., 8, 8, 1\) failed"):
            run(folder, model, out, options=Options(overwrite=True))
        assert out.read_text() == "of an earlier run"
    assert len(list((tmp_path / "out").iterdir())) == len(FORMATS)


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "models", model=model_without_black())
    model = LocalModel.load(ModelRepository(tmp_path / "models"))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "black.png").write_bytes(encode_png(np.zeros((8, 8, 1), np.uint8)))
    (folder / "other.png").write_bytes(encode_png(random_images(1)[0]))
    for ending in FORMATS:
        summary = run(folder, model, tmp_path / f"scores{ending}")
        black, other = read(tmp_path / f"scores{ending}")
        assert summary.errors == 1
        assert black["error"] == "probability: expected a number, got nan"
        # The model never abstains; what is no number is no answer all the same.
        assert (black["label"], black["index"], black["probability"]) == (None, None, None)
        assert other["error"] is None
        assert other["label"] is not None
    result = model.predict([(folder / "black.png").read_bytes()], 2)["results"][0]
    assert result == {"error": "probability: expected a number, got nan"}


@pytest.mark.e2e
def test_the_service_gives_the_same_answers(
    folder: Path, model: LocalModel, tmp_path: Path, server: RunningServer
) -> None:
    run(folder, model, tmp_path / "scores.jsonl")
    with httpx.Client(base_url=server.url) as client:
        for row in read(tmp_path / "scores.jsonl"):
            said = client.post("/predict?top=1", content=Path(row["id"]).read_bytes()).json()
            if row["error"] is not None:
                assert "error" in said
                continue
            best = said["results"][0]["predictions"][0]
            assert (best["label"], best["index"]) == (row["label"], row["index"])
            assert best["probability"] == row["probability"]
