"""``foveal score`` from the command line."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from models.image import encode_png
from tests.scoring.containers import as_parquet, read
from tests.server import ROOT
from tests.shell import Shell
from tests.tiny import LABELS, random_images, tiny_probabilities


@pytest.fixture
def table(files: list[Path], tmp_path: Path) -> Path:
    good = [file for file in files if "-" not in file.name]
    best = tiny_probabilities(random_images(140)).argmax(axis=1)
    truths = [LABELS[index] for index in best]
    truths[0] = LABELS[(best[0] + 1) % 4]
    return as_parquet(tmp_path / "a.parquet", good, label=truths, size=[1.5] * 140)


def test_score_writes_a_table_and_counts_what_it_rejected(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    encoded = [encode_png(image) for image in random_images(3)]
    for i, content in enumerate([*encoded, encoded[0][:50], b"", b"text"]):
        (folder / f"{i}.png").write_bytes(content)
    out = tmp_path / "scores.csv"
    said = shell("score", folder, "--model", "tiny", "--out", out, "--json")
    assert said.code == 3
    assert said.error == ""
    document = said.document
    assert document.pop("seconds") > 0
    assert document.pop("rows_per_s") > 0
    assert document == {
        "out": str(out),
        "model": "tiny",
        "version": 1,
        "rows": 6,
        "errors": 3,
        "passed_over": 0,
        "damaged": 0,
        "examples": {},
        "by_card": 0,
        "resumed_rows": 0,
        "accuracy": None,
        "notes": [],
    }
    assert len(out.read_text().splitlines()) == 7
    said = shell("score", folder / "[0-2].png", "--model", "tiny:2", "--out", out, "--overwrite")
    assert said.code == 0
    assert said.out.startswith(f"{out}: 3 rows by tiny:2, 0 with an error, ")


def test_all_that_is_asked_for_is_in_the_table(shell: Shell, table: Path, tmp_path: Path) -> None:
    expected_NK = tiny_probabilities(random_images(140))
    order_NK = (-expected_NK).argsort(axis=1, kind="stable")
    for ending in (".parquet", ".csv", ".jsonl"):
        out = tmp_path / f"out{ending}"
        said = shell(
            "score",
            table,
            "--model",
            "tiny",
            "--out",
            out,
            "--top",
            2,
            "--probabilities",
            "--keep",
            "label",
            "--keep",
            "size",
            "--id-column",
            "label",
        )
        assert (said.code, said.error) == (0, "")
        rows = read(out)
        assert list(rows[0]) == [
            "id",
            "label",
            "index",
            "probability",
            "label_2",
            "index_2",
            "probability_2",
            "probabilities",
            "error",
            "model",
            "version",
            "source_label",
            "size",
        ]
        assert [int(row["index_2"]) for row in rows] == order_NK[:, 1].tolist()
        assert [row["label_2"] for row in rows] == [LABELS[i] for i in order_NK[:, 1]]
        assert {float(row["size"]) for row in rows} == {1.5}
        assert [row["id"] for row in rows] == [row["source_label"] for row in rows]
        for row, expected_K in zip(rows, expected_NK, strict=True):
            values = row["probabilities"]
            values = values if isinstance(values, list) else orjson.loads(values)
            assert values == pytest.approx(expected_K, abs=1e-6)
            assert values[row["index"]] == row["probability"]


def test_accuracy_and_confusion_are_printed(shell: Shell, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    words = ("score", table, "--model", "tiny", "--out", out, "--overwrite", "--label-column")
    said = shell(*words, "label")
    assert said.out.splitlines()[0].endswith(
        ", accuracy 99.29% of 140 with a label (95 %: 96.07% to 99.87%)"
    )
    heading, *lines = (line.split() for line in said.out.splitlines()[1:])
    assert set(heading[3:]) == set(LABELS)
    assert sum(int(cell) for line in lines for cell in line[1:] if cell != "·") == 140
    document = shell(*words, "label", "--json").document
    assert (document["accuracy"]["rows"], document["accuracy"]["correct"]) == (140, 139)
    said = shell(*words, "size")
    assert ", accuracy" not in said.out
    unfit = "labels: 140 of no class of the model, not compared: '1.5'"
    assert said.out.splitlines()[1:] == [unfit]


def test_max_errors_is_an_exit_code(shell: Shell, files: list[Path], tmp_path: Path) -> None:
    words = ("score", files[0].parent, "--model", "tiny", "--out", tmp_path / "out.csv")
    said = shell(*words, "--max-errors", 1)
    assert (said.code, said.out) == (1, "")
    assert said.error.startswith("errors: expected at most 1 rows with one, got more; the last is")
    assert shell(*words, "--max-errors", 2, "--resume").code == 3


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_is_for_terminals(
    quiet: bool, table: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    ended = subprocess.run(
        [
            sys.executable,
            ROOT / "foveal.py",
            "score",
            table,
            "--model",
            "tiny",
            "--models",
            tiny_repository,
            "--out",
            tmp_path / "out.csv",
            *(["--quiet"] if quiet else []),
        ],
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    try:
        shown = os.read(ours, 1 << 16).decode()
    except OSError:  # Linux: nothing was written, and no one can any more
        shown = ""
    finally:
        os.close(ours)
    assert b"140 rows by tiny:1" in ended.stdout
    assert ("140 of 140 rows" in shown) is not quiet, shown


def test_the_limit_of_pixels_is_an_option(shell: Shell, files: list[Path], tmp_path: Path) -> None:
    """Its name is that of the service's setting."""
    out = tmp_path / "out.jsonl"
    words = ("score", files[0], "--model", "tiny", "--out", out, "--overwrite")
    for option, code in (("64", 0), ("63", 3)):
        assert shell(*words, "--max-image-pixels", option).code == code
    (row,) = read(out)
    assert row["error"] == (
        "image: expected at most 63 pixels, got 8 x 8; raise --max-image-pixels"
    )


def test_damage_is_counted_named_and_with_strict_an_error(shell: Shell, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    good = file.getvalue()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(good)
    (tmp_path / "photos" / "b.jpg").write_bytes(good[:-2] + bytes(9) + good[-2:])
    out = tmp_path / "out.csv"
    words = ("score", tmp_path / "photos", "--model", "tiny", "--overwrite", "--out", out)
    said = shell(*words)
    assert said.code == 0
    assert ", 1 with damage, " in said.out
    assert f"{tmp_path}/photos/b.jpg: answered as viewers show it, but damaged: Corrupt" in said.out
    document = shell(*words, "--json").document
    assert (document["damaged"], list(document["examples"])) == (1, [f"{tmp_path}/photos/b.jpg"])
    document = shell(*words, "--json", "--strict").document
    assert (document["errors"], document["damaged"]) == (1, 0)


def test_without_a_terminal_progress_is_lines(
    shell: Shell, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("score", table, "--model", "tiny", "--out", tmp_path / "out.csv", "--overwrite")
    assert shell(*words).error == "", "a minute has not passed"
    monkeypatch.setattr("commands.score._LINE_S", 0)
    assert shell(*words).error.splitlines()[-1].startswith("140 of 140 rows, ")
    assert shell(*words, "--quiet").error == ""
