"""The accuracy of a job: which labels it compares, how sure it is, and what is said beside it."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from scoring.job import Options, Summary, score
from scoring.local import LocalModel
from scoring.tables import Columns
from scoring.tally import Tally, wilson
from tests.scoring.containers import as_csv, as_npz, as_parquet, run, wds_tar, write_images
from tests.tiny import LABELS, publish_tiny, random_images, tiny_probabilities

IMAGES = random_images(40)
BEST = tiny_probabilities(IMAGES).argmax(axis=1).tolist()
LABEL = Columns(label="label")


@pytest.fixture(scope="module")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("accuracy") / "images"
    return [path for path in write_images(folder, IMAGES) if "-" not in path.name]


def parquet(path: Path, label: Any, metadata: Any = None) -> Path:
    table = pyarrow.table({"image": list(map(encode_png, IMAGES)), "label": label})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pyarrow.parquet.write_table(table, path)
    return path


def class_label(names: list[str]) -> dict[str, Any]:
    feature = {"names": names, "_type": "ClassLabel"}
    return {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}


def counted(summary: Summary) -> tuple[int, int]:
    assert summary.accuracy is not None, summary
    return summary.accuracy["rows"], summary.accuracy["correct"]


def test_numbers_of_a_dataset_mean_its_names_not_the_models_indexes(
    model: LocalModel, tmp_path: Path
) -> None:
    names = ["bottom", "top", "sideways", "lower", "upper"]
    numbers = [names.index(LABELS[index]) for index in BEST]
    table = parquet(tmp_path / "a.parquet", numbers, class_label(names))
    summary = run([table], model, tmp_path / "out.csv", columns=LABEL)
    assert (counted(summary), summary.notes) == ((40, 40), ())
    numbers[:3] = [2, -1, 9]  # another class, none, and none of the names
    table = parquet(tmp_path / "a.parquet", numbers, class_label(names))
    summary = run([table], model, tmp_path / "out.csv", columns=LABEL)
    assert counted(summary) == (37, 37)
    assert summary.notes == (
        "labels: 2 of no class of the model, not compared: 'sideways', '9, not one of 5 names'",
    )
    # Names that the model does not know are no reason to take the numbers for its indexes.
    table = parquet(tmp_path / "a.parquet", BEST, class_label(["a", "b", "c", "d"]))
    summary = run([table], model, tmp_path / "out.csv", columns=LABEL)
    assert summary.accuracy is None
    assert summary.notes[0].startswith("labels: 40 of no class of the model, not compared: 'a', ")


def with_nothing(values: list[Any]) -> list[Any]:
    return [None, *values[1:]]


@pytest.mark.parametrize(
    ("label", "rows"),
    [
        (pyarrow.array(np.array(BEST, float)), 40),
        (pyarrow.array([float("nan"), *map(float, BEST[1:])]), 39),
        (pyarrow.array(with_nothing(BEST), "float64"), 39),
        (pyarrow.array(with_nothing(BEST), "int8"), 39),
        (pyarrow.array([[index] for index in BEST]), 40),
        (pyarrow.array([[index] for index in BEST], pyarrow.list_(pyarrow.int32(), 1)), 40),
        (pyarrow.array([LABELS[index] for index in BEST]).dictionary_encode(), 40),
        (pyarrow.array([LABELS[index] for index in BEST], pyarrow.string_view()), 40),
        (pyarrow.array([LABELS[index].encode() for index in BEST]), 40),
        (pyarrow.array(BEST).dictionary_encode(), 40),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pyarrow.Array) else "",
)
def test_a_label_column_of_any_type_is_compared(
    label: Any, rows: int, model: LocalModel, tmp_path: Path
) -> None:
    columns = Columns(image="image", label="label")
    summary = run(
        [parquet(tmp_path / "a.parquet", label)], model, tmp_path / "o.csv", columns=columns
    )
    assert (counted(summary), summary.notes) == ((rows, rows), ())


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32])
def test_labels_of_one_column_are_one_label_a_row(
    shape: tuple[int, ...], kind: Any, model: LocalModel, tmp_path: Path
) -> None:
    source = as_npz(tmp_path / "a.npz", IMAGES, np.array(BEST, kind).reshape(shape))
    assert counted(run([source], model, tmp_path / "out.csv")) == (40, 40)


def test_a_number_that_is_a_name_means_the_same_everywhere(
    pngs: list[Path], tmp_path: Path
) -> None:
    """Sorted as texts, 10 comes before 2: most numbers are names of one and index of another."""
    names = ("0", "10", "2", "3")
    publish_tiny(tmp_path / "models", labels=names)
    model = LocalModel.load(ModelRepository(tmp_path / "models"))
    numbers = [int(names[index]) for index in BEST]
    (tmp_path / "images").symlink_to(pngs[0].parent)
    linked = [tmp_path / "images" / path.name for path in pngs]
    for source, columns in (
        (as_parquet(tmp_path / "a.parquet", pngs, label=numbers), LABEL),
        (as_parquet(tmp_path / "b.parquet", pngs, label=list(map(str, numbers))), LABEL),
        (as_csv(tmp_path / "a.csv", linked, label=numbers), LABEL),
        (as_csv(tmp_path / "b.csv", linked, label=[float(n) for n in numbers]), LABEL),
        (as_npz(tmp_path / "a.npz", IMAGES, np.array(numbers)), Columns()),
        (wds_tar(tmp_path / "a.tar", IMAGES, numbers), Columns()),
    ):
        summary = run([source], model, tmp_path / "out.csv", columns=columns)
        assert counted(summary) == (40, 40), source
        assert summary.notes == (), "names and indexes agree but for 10, which is no index"

    publish_tiny(tmp_path / "models", labels=("1", "0", "x", "y"))
    model = LocalModel.load(ModelRepository(tmp_path / "models"), "tiny:2")
    source = as_parquet(tmp_path / "a.parquet", pngs, label=[0] * 40)
    summary = run([source], model, tmp_path / "out.csv", columns=LABEL)
    assert counted(summary) == (40, BEST.count(1))
    assert summary.notes == (
        "labels: 40 that name one class and are the index of another, read as names: 0",
    )


@pytest.mark.parametrize(
    ("wrong", "listed"),
    [
        (np.array([10**18, -1]), "'1000000000000000000', '-1'"),
        (np.array([2**64 - 1, 4], np.uint64), "'18446744073709551615', '4'"),
        (np.array([0.5, -3.0], np.float32), "'0.5', '-3'"),
        (np.array(["-1", "1e9"]), "'-1', '1e9'"),
        (np.array([b"-1", b"wolf"]), "'-1', 'wolf'"),
        (np.array([True, False]), "'True', 'False'"),
    ],
)
def test_labels_of_an_array_that_fit_no_class_are_said_as_those_of_a_table(
    wrong: Any, listed: str, pngs: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    array = as_npz(tmp_path / "a.npz", IMAGES[:2], wrong)
    table = as_parquet(tmp_path / "a.parquet", pngs[:2], label=pyarrow.array(wrong))
    for source, columns in ((array, Columns()), (table, LABEL)):
        summary = run([source], model, tmp_path / "out.csv", columns=columns)
        assert summary.accuracy is None
        assert summary.notes == (f"labels: 2 of no class of the model, not compared: {listed}",), (
            source
        )


def test_what_fits_no_class_is_said_and_not_compared(
    pngs: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    labels = [LABELS[index].upper() for index in BEST]
    labels[:4] = ["wolf", "fox", "", "wolf"]
    table = as_parquet(tmp_path / "a.parquet", pngs, label=labels)
    out = tmp_path / "out.csv"
    whole = run([table], model, out, columns=LABEL)
    assert counted(whole) == (36, 36)
    unknown, other = whole.notes
    assert unknown == "labels: 3 of no class of the model, not compared: 'wolf', 'fox'"
    assert other.startswith("labels: 36 in other letters, read '")
    assert ", accuracy 100.00% of 36 with a label (95 %: 90.36% to 100.00%)" in str(whole)
    # Also where the job was stopped in between.
    bad = tmp_path / "top" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"")
    words, columns = [str(table), str(bad)], LABEL
    with pytest.raises(ValueError, match="expected at most 0 rows"):
        score(words, model, out, Options(columns, max_errors=0, overwrite=True, part_rows=1))
    resumed = score(words, model, out, Options(columns, resume=True))
    assert resumed.resumed_rows == 40
    assert resumed.notes == whole.notes


def test_folders_that_are_no_class_are_said_where_others_are(
    pngs: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    for folder, path in (("top", pngs[0]), ("Upper", pngs[1]), ("wolf", pngs[2])):
        (tmp_path / "all" / folder).mkdir(parents=True)
        (tmp_path / "all" / folder / "a.png").write_bytes(path.read_bytes())
    summary = run([tmp_path / "all"], model, tmp_path / "out.csv")
    assert counted(summary)[0] == 2
    assert summary.notes == (
        "labels: 1 images in folders that are no class of the model, not compared: 'wolf'",
        "labels: 1 in other letters, read 'Upper' as 'upper'",
    )
    summary = run([tmp_path / "all" / "wolf"], model, tmp_path / "out.csv")
    assert (summary.accuracy, summary.notes) == (None, ())


def test_what_a_webdataset_says_is_declared(model: LocalModel, tmp_path: Path) -> None:
    says = ["Top", "wolf", "3.0", "1", ""]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, label in enumerate(says):
            for ending, content in (("cls", label.encode()), ("png", encode_png(IMAGES[i]))):
                info = tarfile.TarInfo(f"{i:05}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    summary = run([tmp_path / "a.tar"], model, tmp_path / "out.csv")
    assert counted(summary)[0] == 3
    assert summary.notes == (
        "labels: 1 of no class of the model, not compared: 'wolf'",
        "labels: 1 in other letters, read 'Top' as 'top'",
    )


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"),
    [  # R's prop.test(correct, rows, correct = FALSE)
        (0, 10, 0.0, 0.2775),
        (9, 10, 0.5958, 0.9821),
        (10, 10, 0.7225, 1.0),
        (272, 300, 0.8684, 0.9346),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_the_interval_is_wilsons(correct: int, rows: int, low: float, high: float) -> None:
    assert wilson(correct, rows) == pytest.approx((low, high), abs=5e-5)


def test_unbalanced_classes_have_a_line_of_their_own() -> None:
    counts = {(0, 0): 90, (1, 1): 4, (1, 0): 4, (2, 2): 1, (2, 0): 1}
    accuracy = Tally(100, 0, counts).accuracy(LABELS)
    assert accuracy is not None
    assert accuracy["accuracy"] == 0.95
    assert accuracy["balanced"] == pytest.approx(2 / 3)
    assert accuracy["worst"] == {"label": "upper", "rows": 8, "correct": 4}
    assert accuracy["is_unbalanced"]
    summary = Summary("out.csv", "tiny", 1, 100, 0, 0, 1.0, 100.0, accuracy, ("a note",))
    assert summary.lines()[1:] == [
        "balanced accuracy 66.67% of 3 labels; the worst is upper: 50.00% of 8",
        "a note",
    ]
    even = Tally(4, 0, {(0, 0): 2, (1, 0): 1}).accuracy(LABELS)
    assert even is not None
    assert not even["is_unbalanced"], "twice as many rows are usual"
