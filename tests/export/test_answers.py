from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.answers import Expected, probabilities, read_answers, select_answers
from export.errors import AdoptError
from export.pictures import find_pictures
from tests.export.own import pictures

LABELS = ("cat", "crane", "crane")
NAMES = ("cat", "crane (1)", "crane (2)")
ANSWERS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.05, 0.05, 0.9]], np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("pictures")
    pictures(folder, 3, lambda number: f"{'bac'[number]}/{number}.png")
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "a" / ".hidden.png").write_text("no image")
    return find_pictures([folder], LABELS).files


def told(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_sorted_and_folders_of_no_label_give_no_truth(files: tuple[Path, ...]) -> None:
    assert [file.name for file in files] == ["1.png", "0.png", "2.png"]
    assert find_pictures([files[2], files[0]], LABELS).files == (files[0], files[2])
    assert find_pictures(files, LABELS).targets_N is None


def test_folders_name_equal_labels_by_their_index(tmp_path: Path) -> None:
    pictures(tmp_path, 3, lambda number: f"{NAMES[2 - number]}/{number}.png")
    found = find_pictures([tmp_path], LABELS)
    assert found.targets_N is not None
    assert found.targets_N.tolist() == [0, 1, 2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdoptError, match="expected image files, got a folder without any"):
        find_pictures([tmp_path / "empty"], LABELS)


def test_arrays_are_read_in_the_order_of_the_files(files: tuple[Path, ...], tmp_path: Path) -> None:
    path = tmp_path / "answers.npy"
    np.save(path, ANSWERS.astype(np.float64))
    expected = read_answers(path, files, LABELS).expected
    assert expected is not None and expected.files == files
    np.testing.assert_array_equal(expected.probabilities_NK, ANSWERS)
    np.save(path, np.array([0, 1, 2]))
    expected = read_answers(path, files, LABELS).expected
    assert expected is not None and expected.is_labels_only
    np.save(path, np.array([[0.25], [1.0], [0.5]]))
    expected = read_answers(path, files, ("no", "yes")).expected
    assert expected is not None
    np.testing.assert_array_equal(expected.probabilities_NK, [[0.75, 0.25], [0, 1], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (ANSWERS[:2], r"expected float \[3, 3\], a row for each of the sorted images"),
        (ANSWERS * 9, "expected probabilities, 0 to 1, got 0.45 to 8.1; save what comes after"),
        (np.full((3, 3), np.nan), "expected probabilities, 0 to 1, got nan"),
        (np.array([0, 1, 3]), "expected indices of labels, 0 to 2, got 0 to 3"),
        (np.array(["a", "b", "c"]), "expected float"),
    ],
)
def test_other_arrays_are_refused(
    files: tuple[Path, ...], tmp_path: Path, values: NDArray[Any], said: str
) -> None:
    np.save(tmp_path / "answers.npy", values)
    with pytest.raises(AdoptError, match=said):
        read_answers(tmp_path / "answers.npy", files, LABELS)


@pytest.mark.parametrize("header", [("file", *NAMES), ("path", "0", "1", "2")])
def test_tables_are_read_by_file_name(
    files: tuple[Path, ...], tmp_path: Path, header: tuple[str, ...]
) -> None:
    rows = [
        ",".join((f"{file.parent.name}/{file.name}", *map(str, answer)))
        for file, answer in zip(files, ANSWERS, strict=True)
    ]
    path = told(tmp_path / "a.csv", "\ufeff" + "\r\n".join((",".join(header), *reversed(rows))))
    expected = read_answers(path, files, LABELS).expected
    assert expected is not None and not expected.is_labels_only
    np.testing.assert_array_equal(expected.probabilities_NK, ANSWERS)


def test_tables_of_labels_and_truth(files: tuple[Path, ...], tmp_path: Path) -> None:
    text = "file,label,truth\n0.png,crane (1),0\n1.png,cat,cat\n2.png,2,crane (2)\n"
    given = read_answers(told(tmp_path / "a.csv", text), files, LABELS)
    assert given.expected is not None and given.expected.is_labels_only
    assert given.expected.probabilities_NK.argmax(axis=1).tolist() == [0, 1, 2]
    assert given.targets_N is not None and given.targets_N.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\n0.png,cat\n1.png,cat\n", "expected one row for each of the 3 images, got no"),
        ("file,label\n0.png,crane\n1.png,cat\n2.png,cat\n", "label: expected a label or its index"),
        ("file,cat\n0.png,1\n1.png,1\n2.png,1\n", "expected a column for each of the 3 labels"),
        ("file,0,1,2\n0.png,1,0,0\n1.png,1,0\n2.png,1,0,0\n", "expected 4 columns, got 3"),
        ("file,0,1,2\n0.png,1,0,x\n1.png,1,0,0\n2.png,1,0,0\n", "expected numbers"),
        ("", "expected a CSV with a header"),
    ],
)
def test_other_tables_are_refused(
    files: tuple[Path, ...], tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(AdoptError, match=said):
        read_answers(told(tmp_path / "a.csv", text), files, LABELS)


def test_answers_are_selected_by_file(files: tuple[Path, ...]) -> None:
    expected = Expected(files, ANSWERS, "evaluate.py")
    chosen = select_answers(expected, (files[2], files[0]))
    np.testing.assert_array_equal(chosen.probabilities_NK, ANSWERS[[2, 0]])
    with pytest.raises(AdoptError, match="expected an answer to"):
        select_answers(expected, (Path("other.png"),))


def test_outputs_of_a_network_become_probabilities() -> None:
    outputs = np.array([[0.0, np.log(3)]], np.float32)
    np.testing.assert_allclose(probabilities(outputs, None), [[0.25, 0.75]], rtol=1e-6)
    many = probabilities(outputs, "logits", "multi-label")
    np.testing.assert_allclose(many, [[0.5, 0.75]], rtol=1e-6)
    one = probabilities(outputs[:, 1:], "logits", "binary")
    np.testing.assert_allclose(one, [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_array_equal(probabilities(many, "probabilities", "multi-label"), many)
