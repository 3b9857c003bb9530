"""A CSV that a spreadsheet opens runs nothing, and gives back every text."""

import re
from pathlib import Path

from models.image import encode_png
from models.repository import ModelRepository
from scoring.local import LocalModel
from scoring.tables import Columns
from tests.scoring.containers import as_parquet, read, run
from tests.tiny import publish_tiny, random_images

IDS = ["=cmd|'/c calc'!A1", "+1+1", "-x.png", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "'=1", "''-x"]
PLAIN = ["a.png", "-1", "+1.5", "-1e-3", "'quoted'", "a=1", "", "'", "2024-01-01"]


def test_a_text_that_would_run_gets_a_quote(model: LocalModel, tmp_path: Path) -> None:
    ids = [*IDS, *PLAIN]
    png = tmp_path / "a.png"
    png.write_bytes(encode_png(random_images(1)[0]))
    table = as_parquet(tmp_path / "a.parquet", [png] * len(ids), key=ids, n=list(range(-9, 9)))
    columns = Columns(id="key", keep=("key", "n"))
    for ending in (".csv", ".jsonl", ".parquet"):
        run([table], model, tmp_path / f"out{ending}", columns=columns)
    safe = read(tmp_path / "out.csv")
    assert [row["id"] for row in safe] == [f"'{each}" for each in IDS] + [p or None for p in PLAIN]
    assert [row["key"] for row in safe] == [row["id"] for row in safe]
    assert [int(row["n"]) for row in safe] == list(range(-9, 9))
    # The rule that the documentation gives takes the quote away.
    back = [
        re.sub(r"^'(?='*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])", "", row["id"] or "")
        for row in safe
    ]
    assert back == ids
    for ending in (".jsonl", ".parquet"):
        assert [row["id"] for row in read(tmp_path / f"out{ending}")] == ids


def test_names_of_labels_columns_and_files_do_not_run_either(tmp_path: Path) -> None:
    labels = ("=1+1", "@b", "-c", "+d")
    publish_tiny(tmp_path / "models", labels=labels)
    model = LocalModel.load(ModelRepository(tmp_path / "models"))
    png = tmp_path / "a.png"
    png.write_bytes(encode_png(random_images(1)[0]))
    table = as_parquet(tmp_path / "a.parquet", [png], 1, **{"=n": ["x"]})
    run([table], model, tmp_path / "out.csv", columns=Columns(keep=("=n",)))
    [row] = read(tmp_path / "out.csv")
    assert row["label"] in [f"'{label}" for label in labels]
    assert row["'=n"] == "x"
    publish_tiny(tmp_path / "models", "several", task="multi-label", labels=labels)
    model = LocalModel.load(ModelRepository(tmp_path / "models"), "several")
    run([table], model, tmp_path / "out.csv")
    [row] = read(tmp_path / "out.csv")
    assert row["label"].startswith("'")
    if row["labels"] is not None:
        given = row["labels"].removeprefix("'").split("|")
        assert set(given) <= set(labels)
