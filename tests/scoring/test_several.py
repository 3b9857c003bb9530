"""Jobs of a multi-label model: its labels in every format, true labels in lists; equal labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
import pytest

from models.evidence import Abstain, Selective
from models.image import encode_png
from models.repository import ModelRepository
from scoring.job import Summary
from scoring.local import LocalModel
from scoring.rows import ScoreError
from scoring.tables import Columns
from scoring.tally import Tally, tabulate
from tests.scoring.containers import as_csv, as_npz, as_parquet, read, run
from tests.shell import Shell
from tests.tiny import LABELS, THRESHOLDS, publish_tiny, random_images, tiny_probabilities

IMAGES = random_images(70, seed=3)
PROBABILITIES = tiny_probabilities(IMAGES, task="multi-label").astype(np.float32)
WORTH = Selective("test", 100, 0.5, 0.99)
SURE = 0.55


def names_of(row_K: Any) -> list[str]:
    order = np.argsort(-row_K, kind="stable")
    return [LABELS[i] for i in order if row_K[i] >= np.float32(THRESHOLDS[i])]


GIVEN = [names_of(row_K) for row_K in PROBABILITIES]
# The true labels: the model's own, but for every seventh image, where "top" is the other way.
TRUE = [
    sorted(set(given) ^ {"top"} if i % 7 == 0 else given, key=LABELS.index)
    for i, given in enumerate(GIVEN)
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several")
    publish_tiny(root, "several", task="multi-label")
    publish_tiny(root, "picky", task="multi-label", abstain=Abstain(SURE, 0.99, WORTH, WORTH))
    publish_tiny(root, "cranes", task="multi-label", labels=("crane", "dog", "crane", "a|b"))
    return root


@pytest.fixture(scope="module")
def several(repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(repository), "several")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i:02}.png" for i in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        path.write_bytes(encode_png(image))
    return paths


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_the_labels_are_a_column(
    pictures: list[Path], several: LocalModel, tmp_path: Path, ending: str
) -> None:
    """Beside the most probable one; "" in CSV and [] elsewhere where there is none."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    out = tmp_path / f"scores{ending}"
    assert run([*pictures, broken], several, out, part_rows=20).errors == 1
    rows = read(out)
    assert list(rows[0])[:6] == ["id", "label", "index", "probability", "labels", "error"]
    got = [row["labels"] for row in rows]
    if ending == ".csv":
        assert got == [*("|".join(given) or None for given in GIVEN), None]
    else:
        assert got == [*GIVEN, None]
    assert {0, 4} <= set(map(len, GIVEN))
    best = PROBABILITIES.argmax(axis=1).tolist()
    assert [row["index"] for row in rows[:-1]] == best


def test_where_the_model_abstains_there_is_none(
    pictures: list[Path], repository: Path, tmp_path: Path
) -> None:
    picky = LocalModel.load(ModelRepository(repository), "picky")
    out = tmp_path / "scores.jsonl"
    run(pictures, picky, out)
    is_sure_N = PROBABILITIES.max(axis=1) >= np.float32(SURE)
    assert 0 < is_sure_N.sum() < len(IMAGES)
    expected = [given if is_sure else [] for given, is_sure in zip(GIVEN, is_sure_N, strict=True)]
    assert [row["labels"] for row in read(out)] == expected
    assert [row["label"] is not None for row in read(out)] == is_sure_N.tolist()


def check_counts(summary: Summary) -> None:
    accuracy = summary.accuracy
    assert accuracy is not None
    wrong = len(range(0, len(IMAGES), 7))
    assert (accuracy["rows"], accuracy["correct"]) == (70, 70 - wrong)
    assert accuracy["confusion"] == {}
    for name in LABELS:
        pairs = [(name in true, name in given) for true, given in zip(TRUE, GIVEN, strict=True)]
        assert accuracy["per_label"][name] == {
            "images": sum(true for true, _ in pairs),
            "given": sum(given for _, given in pairs),
            "right": sum(true and given for true, given in pairs),
        }


def test_true_labels_are_lists_or_one_text(
    pictures: list[Path], several: LocalModel, tmp_path: Path
) -> None:
    """By name or by index, in Parquet, in CSV and in an array; the counts are the same."""
    indexes = [[LABELS.index(name) for name in true] for true in TRUE]
    columns = Columns(label="y")
    out = tmp_path / "out.csv"
    for values in (TRUE, indexes):
        table = as_parquet(tmp_path / "a.parquet", pictures, y=values)
        check_counts(run([table], several, out, columns=columns))
    folder = pictures[0].parent
    texts = ["|".join(true) for true in TRUE]
    check_counts(run([as_csv(folder / "a.csv", pictures, y=texts)], several, out, columns=columns))
    arrays = as_npz(tmp_path / "a.npz", IMAGES, np.array(texts))
    check_counts(run([arrays], several, out))


def test_counts_survive_a_resume(several: LocalModel, pictures: list[Path], tmp_path: Path) -> None:
    """They are kept as JSON with each part; a folder's name says nothing of several labels."""
    tally = Tally(7, 1, {}, 5, 3, {2: [4, 3, 2]})
    read_back = Tally.from_json(json.loads(orjson.dumps(tally.to_json())))
    assert read_back == tally
    read_back.add(Tally(1, 0, {}, 1, 1, {2: [1, 1, 1], 0: [0, 1, 0]}))
    assert read_back == Tally(8, 1, {}, 6, 4, {2: [5, 4, 3], 0: [0, 1, 0]})
    accuracy = read_back.accuracy(LABELS)
    assert accuracy is not None
    assert tabulate(accuracy) == [
        ("label", "images", "given", "right", "precision", "recall"),
        ("top", "0", "1", "0", "0.00%", "-"),
        ("lower", "5", "4", "3", "75.00%", "60.00%"),
    ]
    folder = tmp_path / "top"
    folder.mkdir()
    (folder / "0.png").write_bytes(pictures[0].read_bytes())
    assert run([folder], several, tmp_path / "out.csv").accuracy is None


def test_the_command_tells_precision_and_recall(
    pictures: list[Path],
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = as_parquet(tmp_path / "a.parquet", pictures, y=TRUE)
    shell = Shell(capsys, repository)
    words = ("--model", "several", "--label-column", "y", "--out", tmp_path / "o.jsonl")
    said = shell("score", table, *words)
    assert said.code == 0 and ", accuracy 85.71% of 70 with a label" in said.out
    assert "precision" in said.out and "bottom" in said.out


def test_a_confusion_matrix_keeps_equal_labels_apart(
    pictures: list[Path], repository: Path, tmp_path: Path
) -> None:
    """By index, or by the name that tells them apart; the name that both have is refused."""
    publish_tiny(repository, "alike", labels=("crane", "dog", "crane", "cat"))
    alike = LocalModel.load(ModelRepository(repository), "alike")
    best = tiny_probabilities(IMAGES).argmax(axis=1).tolist()
    names = ("crane (0)", "dog", "crane (2)", "cat")
    table = as_parquet(
        tmp_path / "a.parquet",
        pictures,
        index=best,
        name=[names[i] for i in best],
        label=[alike.artifact.labels[i] for i in best],
    )
    out = tmp_path / "out.csv"
    for column in ("index", "name"):
        accuracy = run([table], alike, out, columns=Columns(label=column)).accuracy
        assert accuracy is not None and accuracy["accuracy"] == 1
        expected = {names[i]: {names[i]: best.count(i)} for i in sorted(set(best))}
        assert accuracy["confusion"] == expected
    with pytest.raises(ScoreError, match="expected a name that one label has, got 'crane'"):
        run([table], alike, out, columns=Columns(label="label"))
    assert [row["label"] for row in read(out)] == [alike.artifact.labels[i] for i in best]


def test_equal_labels_and_the_separator(
    pictures: list[Path], repository: Path, tmp_path: Path
) -> None:
    cranes = LocalModel.load(ModelRepository(repository), "cranes")
    with pytest.raises(
        ScoreError,
        match=r"^labels: expected none with '\|' in it, which stands between labels in CSV, got "
        r"'a\|b'; write .jsonl or .parquet$",
    ):
        run(pictures, cranes, tmp_path / "out.csv")
    run(pictures, cranes, tmp_path / "out.jsonl")
    names = dict(zip(LABELS, ("crane (0)", "dog", "crane (2)", "a|b"), strict=True))
    expected = [[names[name] for name in given] for given in GIVEN]
    assert [row["labels"] for row in read(tmp_path / "out.jsonl")] == expected
    table = pyarrow.table({"image": [encode_png(IMAGES[0])], "y": [["dog", "crane"]]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ScoreError, match="expected a name that one label has, got 'crane'"):
        run([tmp_path / "a.parquet"], cranes, tmp_path / "o.jsonl", columns=Columns(label="y"))
