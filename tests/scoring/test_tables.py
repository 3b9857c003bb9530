"""Tables: columns that are missing, cells without an image, damaged pages."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from models.image import encode_png
from scoring.local import LocalModel
from scoring.rows import ScoreError
from scoring.tables import Columns
from tests.scoring.containers import (
    as_parquet,
    read,
    rows_of,
    run,
)
from tests.tiny import random_images


def test_a_damaged_page_is_rows_with_an_error(model: LocalModel, tmp_path: Path) -> None:
    images = [encode_png(image) for image in random_images(60)]
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"image": images})
    pyarrow.parquet.write_table(table, path, row_group_size=20, use_dictionary=False)
    content = bytearray(path.read_bytes())
    second = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    content[second.data_page_offset : second.data_page_offset + 40] = bytes(40)
    path.write_bytes(content)
    run([path], model, tmp_path / "out.csv")
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [f"{path}#{i}" for i in range(60)]
    assert [i for i, row in enumerate(rows) if row["error"]] == list(range(20, 40))
    assert rows[20]["error"].startswith("table: expected a whole row group 1, got: ")


def test_a_table_with_a_null_or_a_missing_file_has_rows_with_errors(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = pyarrow.array(
        [
            None,
            {"bytes": None, "path": None},
            {"bytes": None, "path": str(files[0])},
            {"bytes": None, "path": "none.png"},
        ],
        kind,
    )
    pyarrow.parquet.write_table(pyarrow.table({"image": cells}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text('path,x\n\n"",1\nnone.png,2\nn\0one.png,3\n')
    rows = rows_of([tmp_path / "a.parquet", tmp_path / "b.csv"], model, tmp_path)
    nothing = "image: expected bytes or a path, got nothing"
    missing = "file: expected a readable file, got: No such file or directory"
    assert [row["error"] for row in rows] == [
        nothing,
        nothing,
        None,
        missing,
        nothing,
        missing,
        "file: expected a readable file, got: embedded null byte",
    ]


def test_a_column_that_is_not_there_is_refused(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    source = as_parquet(tmp_path / "a.parquet", files[:2], size=[1, 2])
    for columns, match in (
        (Columns(label="none"), 'expected a column "none", got image, size$'),
        (Columns(image="size"), 'column "size": expected binary, text, lists of 0-255 or a struct'),
        (Columns(keep=("none",)), '^--keep: expected a column of a table, got "none"'),
    ):
        with pytest.raises(ScoreError, match=match):
            run([source], model, tmp_path / "out.csv", columns=columns)
