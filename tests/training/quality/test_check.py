"""``foveal check`` on a folder in which one of everything is wrong."""

import base64
import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.image import encode_png
from tests.server import ROOT
from tests.shell import Shell
from tests.training.files import make_pngs, write_parquet
from tests.training.quality.planted import plant, read_findings
from training.datasets.sources import read_source
from training.quality.findings import KINDS

pytestmark = pytest.mark.training

CLASSES = 10


class Planted:
    """A folder of digits, 32 x 32, in which things are wrong.

    Attributes:
        folder: Its path.
        expected: Kind of finding to the files (below the folder) that must be of it.
        wrong: Files whose label is wrong, to their true label.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[str, set[str]] = {}
        self.wrong: dict[str, str] = {}
        source = read_source("digits", None)
        for split, part in (("train", source.train), ("test", source.test)):
            targets, rows = plant(part.targets_N, 0.02, CLASSES)
            for row, (image, target) in enumerate(zip(part.images_NHWC, targets, strict=True)):
                path = self.save(image, f"{split}/{target}/{row:04}.png")
                if row in rows:
                    self.wrong[path] = str(part.targets_N[row])

    def save(self, image: np.ndarray, path: str, side: tuple[int, int] = (32, 32)) -> str:
        picture = Image.fromarray(np.squeeze(image)).resize(side, Image.Resampling.BICUBIC)
        return self.write(path, picture)

    def write(self, path: str, content: Image.Image | bytes, **options: Any) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            content.save(file, **options)
        return path

    def open(self, path: str) -> Image.Image:
        return Image.open(self.folder / path)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def expect(self, kind: str, *paths: str) -> None:
        self.expected.setdefault(kind, set()).update(paths)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    made = Planted(tmp_path_factory.mktemp("planted") / "digits")
    # Rows whose labels are right: copies, turns and so on are made of them.
    right = [f"train/{d}/{p.name}" for d in "2579" for p in (made.folder / f"train/{d}").iterdir()]
    right = sorted(path for path in right if path not in made.wrong)
    label = [path.split("/")[1] for path in right]
    first = made.read(right[0])
    made.expect(
        "unreadable",
        made.write("train/3/cut.png", first[: len(first) // 2]),
        made.write("train/3/empty.png", b""),
        made.write("test/4/notes.txt", b"ask Ann about these"),
    )
    made.expect("duplicate", made.write(f"train/{label[1]}/z_copy.png", made.read(right[1])))
    made.expect(
        "duplicate-across-splits",
        made.write(f"test/{label[2]}/copy.bmp", made.open(right[2])),
    )
    made.expect(
        "duplicate-other-label", made.write("train/9/copy.png", made.read(right[3])), right[3]
    )
    made.expect(
        "near-duplicate-across-splits",
        made.write(f"test/{label[4]}/again.jpg", made.open(right[4]), quality=90),
    )
    wide = made.open(right[5]).resize((64, 64))
    made.expect("near-duplicate", made.write(f"train/{label[5]}/z_large.png", wide))
    made.expect("blank", made.write("train/0/blank.png", Image.new("RGB", (32, 32), "red")))
    made.expect(
        "tiny", made.save(np.asarray(made.open(right[6])), f"train/{label[6]}/t.png", (6, 6))
    )
    made.expect("shape", made.save(np.asarray(made.open(right[7])), "train/1/s.png", (32, 200)))
    made.expect("no-label", made.write("train/stray.png", made.open(right[8]).crop((0, 0, 20, 32))))
    five = next(path for path in right if path.split("/")[1] == "5")
    turned = made.open(five).transpose(Image.Transpose.ROTATE_90)
    made.expect("rotated", made.write("train/5/turned.png", turned))
    (made.folder / five).unlink()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        made.save(noise, f"train/=cmd|rare/{number}.png")
    made.write("train/3/Thumbs.db", b"x")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = made.open(right[70]).transpose(Image.Transpose.ROTATE_90)
    made.write(f"train/{label[70]}/phone.jpg", lying, exif=exif)
    return made


class Checked:
    """What a check wrote, and what it printed with ``--json``."""

    def __init__(self, planted: Planted, out: Path, document: dict[str, Any]) -> None:
        self.document, self.out = document, out
        self.rows = read_findings(out / "findings.csv")
        self._root = planted.folder

    def of(self, kind: str) -> list[str]:
        """The files of a kind, below the dataset's folder, in order."""
        found = [row["file"] for row in self.rows if row["kind"] == kind]
        return [str(Path(file).relative_to(self._root)) for file in found]

    def row(self, kind: str, file: str) -> dict[str, str]:
        places = [row for row in self.rows if row["kind"] == kind]
        return next(row for row in places if row["file"].endswith(file))


@pytest.fixture(scope="module")
def checked(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    out = tmp_path_factory.mktemp("check") / "out"
    words = ["check", f"folder:{planted.folder}", "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "foveal.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Checked(planted, out, json.loads(done.stdout))


@pytest.mark.parametrize(
    "kind",
    [
        "unreadable",
        "duplicate",
        "duplicate-across-splits",
        "duplicate-other-label",
        "near-duplicate",
        "near-duplicate-across-splits",
        "blank",
        "tiny",
        "shape",
        "no-label",
        "rotated",
    ],
)
def test_everything_planted_is_found(kind: str, planted: Planted, checked: Checked) -> None:
    found = checked.of(kind)
    assert planted.expected[kind] <= set(found)
    # And little else: digits written alike are alike.
    assert len(found) <= len(planted.expected[kind]) + 3


def test_wrong_labels_come_first(planted: Planted, checked: Checked) -> None:
    found = checked.of("label")
    first = set(found[: 2 * len(planted.wrong)])
    assert len(first & set(planted.wrong)) >= 0.8 * len(planted.wrong)
    right = [row for row in checked.rows if row["kind"] == "label"]
    named = {str(Path(row["file"]).relative_to(planted.folder)): row["suggestion"] for row in right}
    agreed = sum(named.get(path) == label for path, label in planted.wrong.items())
    assert agreed >= 0.8 * len(planted.wrong)
    scores = [float(row["score"]) for row in right]
    assert scores == sorted(scores, reverse=True)


def test_a_row_says_where_and_what(planted: Planted, checked: Checked) -> None:
    copy = checked.row("duplicate-other-label", "train/9/copy.png")
    assert (copy["split"], copy["label"], copy["row"], copy["score"]) == (
        "train",
        "9",
        "",
        "1.0000",
    )
    (original,) = planted.expected["duplicate-other-label"] - {"train/9/copy.png"}
    label = original.split("/")[1]
    assert copy["suggestion"] == f"same pixels as {planted.folder / original}, labelled {label}"
    notes = checked.row("unreadable", "notes.txt")
    assert notes["suggestion"].startswith("expected JPEG, PNG")
    assert checked.row("tiny", "t.png")["suggestion"] == "6 x 6 pixels"
    assert (
        checked.row("rotated", "5/turned.png")["suggestion"] == "turn it by 270 degrees to the left"
    )


def test_a_class_of_few_images_is_named_and_no_formula(checked: Checked) -> None:
    """A spreadsheet would run the class's own name."""
    small = [row for row in checked.rows if row["kind"] == "small-class"]
    assert [(row["label"], row["split"]) for row in small] == [
        ("'=cmd|rare", "test"),
        ("'=cmd|rare", "train"),
    ]
    assert small[1]["suggestion"] == "3 images; expected 20 or more"


def test_the_document_counts_what_the_table_holds(planted: Planted, checked: Checked) -> None:
    document, wrong = checked.document, len(planted.wrong)
    counts = Counter(row["kind"] for row in checked.rows)
    assert document["findings"] == {kind: counts[kind] for kind in KINDS}
    assert document["passed_over"] == 1
    assert 0.5 * wrong <= document["estimated_wrong_labels"] <= 2 * wrong
    assert document["turned_by_exif"] == 1
    assert document["table"] == str(checked.out / "findings.csv")
    assert sum(document["splits"].values()) == document["images"]


class Images(HTMLParser):
    """Collects the pictures of a page: their texts and sources."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_the_page_shows_pictures_with_texts(planted: Planted, checked: Checked) -> None:
    page = (checked.out / "report.html").read_text()
    images = Images(page).found
    texts = [str(image["alt"]) for image in images]
    assert f"{planted.folder}/train/0/blank.png, labelled 0" in texts
    assert f"{planted.folder}/train/stray.png, without a label" in texts
    for image in images:
        source = str(image["src"])
        assert source.startswith("data:image/png;base64,")
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page)
    for kind, (title, _) in KINDS.items():
        assert (f"<h2>{title}: " in page) == bool(checked.document["findings"][kind])


def test_nothing_found(shell: Shell, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 120)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(40):
            noise = generator.integers(low, low + 100, (24, 24), np.uint8)
            Image.fromarray(noise).save(tmp_path / "d" / label / f"{number}.png")
    said = shell("check", f"folder:{tmp_path / 'd'}", "--out", tmp_path / "out")
    assert (said.code, said.error) == (0, "")
    assert "nothing found" in said.out
    assert "80 images of 2 classes: all 80" in said.out
    assert (tmp_path / "out" / "findings.csv").read_text().count("\n") == 1
    assert (
        "Labels: by cross-validation, 5 folds, which agrees with 100.0% of them"
        in (tmp_path / "out" / "report.html").read_text()
    )


def test_labels_can_be_skipped_and_few_are_not_judged(shell: Shell, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "t.parquet", make_pngs(4), [0, 1, 0, 1], ["cat", "dog"])
    words = ["check", f"parquet:{table}", "--out", tmp_path / "out", "--json"]
    document = shell(*words).document
    assert document["label_check"].startswith("not checked: expected 50 images of 2 classes, got 0")
    assert document["agreement"] is None
    assert document["findings"]["blank"] == 4
    assert shell(*words, "--skip-labels").document["label_check"] == "not checked: --skip-labels"


def test_a_list_that_would_be_wrong_itself_is_not_given(shell: Shell, tmp_path: Path) -> None:
    """Labels drawn by lot: cross-validation knows no better, and says so."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), np.uint8)
    images = [encode_png(image) for image in noise]
    table = write_parquet(tmp_path / "t.parquet", images, [0, 1] * 40, ["cat", "dog"])
    document = shell("check", f"parquet:{table}", "--out", tmp_path / "out", "--json").document
    assert re.match(
        r"not checked: cross-validation agrees with only \d\d% ", document["label_check"]
    )
    assert document["findings"]["label"] == document["findings"]["rotated"] == 0


def test_a_model_judges_labels(shell: Shell, planted: Planted, tmp_path: Path) -> None:
    """Only images of classes that the shipped model has, and one of them under a wrong label."""
    for label in "378":
        (tmp_path / "d" / label).mkdir(parents=True)
        paths = sorted((planted.folder / "test" / label).glob("[0-9]*.png"))
        for path in paths:
            wrong = planted.wrong.get(f"test/{label}/{path.name}")
            if wrong is None:
                (tmp_path / "d" / label / path.name).write_bytes(path.read_bytes())
    (tmp_path / "d/3/0000.png").write_bytes(
        next(iter((tmp_path / "d/7").iterdir())).read_bytes()[:]
    )
    said = shell(
        *("check", f"folder:{tmp_path / 'd'}", "--model", "digits-cnn", "--json"),
        *("--out", tmp_path / "out"),
        models=ROOT / "models",
    )
    assert said.code == 0
    assert said.document["label_check"].startswith("by the model digits-cnn, which agrees with 9")
    assert said.document["agreement"] > 0.9
    first = read_findings(tmp_path / "out" / "findings.csv", "label")[0]
    assert (first["file"], first["suggestion"]) == (str(tmp_path / "d/3/0000.png"), "7")


def test_a_model_of_other_labels_is_refused(shell: Shell, planted: Planted, tmp_path: Path) -> None:
    said = shell(
        *("check", f"folder:{planted.folder}", "--model", "fashion-cnn", "--out", tmp_path),
        models=ROOT / "models",
    )
    assert said.code == 1
    assert re.fullmatch(
        r"fashion-cnn:\d+: expected one label an image and the labels of folder:.*, got labels "
        r"without 0, 1, 2, 3, 4; leave out --model\n",
        said.error,
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("birds",), 1, "dataset: expected one of cifar10, digits"),
        (("folder:none-here",), 1, "none-here: expected a folder with one sub-folder per class"),
        (("digits", "--model", "none"), 1, "none"),
        ((), 2, "Missing argument 'DATASET'"),
    ],
)
def test_mistakes_are_one_line(
    shell: Shell, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    said = shell("check", *words, "--out", tmp_path / "out")
    assert said.code == code
    assert message in said.error
    assert said.error.count("\n") == 1
