"""A recording is asked again: equal to the last bit, or said how not; and a source of all else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from scoring.compared import Comparison, Side, summarize
from scoring.local import LocalModel
from scoring.recorded import Wanted, export, image_of
from scoring.replay import Answer, replay
from service.record.truths import add_truths, read_truths
from tests.export.foreign import foreign_model, save
from tests.recordings import ask, load, record, write
from tests.shell import Shell
from tests.tiny import LABELS, publish_tiny, random_images, tiny_logits

IMAGES = random_images(300, seed=41)
PNGS = [encode_png(image) for image in IMAGES]
LABEL_N = [LABELS[i] for i in tiny_logits(IMAGES).argmax(axis=1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 answers as version 1, version 3 with the other sign: no first label is the same."""
    root = tmp_path_factory.mktemp("replay") / "models"
    for gain in (1.0, 1.0, -1.0):
        publish_tiny(root, gain=gain)
    ModelRepository(root).set_default("tiny", 1)
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> LocalModel:
    return load(root, "tiny:1")


@pytest.fixture(scope="module")
def recording(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 requests of 1 image, in batches of 1 to 5."""
    folder = tmp_path_factory.mktemp("recording")
    asked, first = [], 0
    while first < len(PNGS):
        size = 1 + first % 5
        chunk = PNGS[first : first + size]
        answered = ask(model, chunk)
        assert answered.probabilities_NK is not None
        for row, png in enumerate(chunk):
            asked.append(
                replace(
                    answered,
                    id=f"id-{first + row}",
                    rows=1,
                    images=[png],
                    time=answered.time + (first + row) / 500,
                    probabilities_NK=answered.probabilities_NK[row : row + 1],
                )
            )
        first += size
    write(folder, asked)
    return folder


def compare(recording: Path, candidate: LocalModel, **more: object) -> Comparison:
    found = Comparison(candidate.artifact)
    truths = read_truths(recording)
    for pair in replay(recording, Wanted("tiny", truths), candidate, **more):  # type: ignore[arg-type]
        found.add(pair)
    return found


def test_the_same_version_answers_the_same_bits(recording: Path, model: LocalModel) -> None:
    found = compare(recording, model)
    assert (found.rows, found.equal, found.largest, found.flipped) == (300, 300, 0.0, 0)
    assert ("bit-equal", "300 of 300 (100 %)") in summarize(found)


def test_another_version_flips_every_label(recording: Path, root: Path) -> None:
    found = compare(recording, load(root, "tiny:3"))
    assert (found.rows, found.equal, found.flipped) == (300, 0, 300)
    assert sum(found.flips.values()) == 300
    assert all(before != after for before, after in found.flips)
    assert found.largest > 0.1


def test_versions_are_compared_with_each_other(
    recording: Path, root: Path, model: LocalModel
) -> None:
    found = compare(recording, load(root, "tiny:2"), against=load(root, "tiny:3"))
    assert (found.rows, found.flipped) == (300, 300)
    assert compare(recording, load(root, "tiny:2"), against=model).equal == 300


def test_known_labels_give_an_accuracy(recording: Path, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "recording"
    copy.mkdir()
    for path in recording.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    # 200 are known; of 20 something else is true than version 1 says.
    truths = [(i, LABEL_N[i] if i >= 20 else _other(LABEL_N[i])) for i in range(200)]
    add_truths(copy, [{"id": f"id-{i}", "label": label} for i, label in truths])
    found = compare(copy, load(root, "tiny:2"))
    assert (found.after.known, found.after.right, found.better, found.worse) == (200, 180, 0, 0)
    assert found.after.interval == pytest.approx((0.8506, 0.9343), abs=1e-4)
    assert found.before.calibration_error == pytest.approx(found.after.calibration_error)
    worse = compare(copy, load(root, "tiny:3"))
    assert worse.worse == 180 and worse.after.right + 180 - worse.better == 180


def _other(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def test_the_calibration_error_is_that_of_its_definition() -> None:
    side = Side()
    rng = np.random.default_rng(3)
    confidence_N = rng.uniform(0.25, 1, 500).astype(np.float32)
    right_N = rng.uniform(size=500) < confidence_N**2
    for confidence, is_right in zip(confidence_N, right_N, strict=True):
        side.add(Answer(np.array([confidence, 0], np.float32), (0,)), bool(is_right))
    bin_N = np.minimum((confidence_N.astype(float) * 15).astype(int), 14)
    expected = sum(
        (bin_N == b).mean() * abs(confidence_N[bin_N == b].mean() - right_N[bin_N == b].mean())
        for b in range(15)
        if (bin_N == b).any()
    )
    assert side.calibration_error == pytest.approx(expected, abs=1e-6)


def test_the_command_says_it_and_writes_a_page(
    shell: Shell, recording: Path, root: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"id-{i},{LABEL_N[i]}\n" for i in range(100)))
    words = "replay", recording, "--labels", labels, "--candidate"
    said = shell(*words, "tiny:2", models=root)
    assert said.code == 0, said.error
    assert "300 of 300 (100 %)" in said.out and "100.00% (96.30% to 100.00%)" in said.out
    out = tmp_path / "page"
    said = shell(*words, "tiny:3", "--out", out, "--max-flips", 1, "--json", models=root)
    assert said.code == 1
    assert said.document["flipped"] == 300 and said.document["worse"] == 100
    page = (out / "replay.html").read_text()
    assert page.count("data:image/png;base64,") >= 12
    assert all(flip["before"] in page for flip in said.document["flips"])
    assert "http://" not in page and "https://" not in page


def test_what_cannot_be_replayed_is_one_line(
    shell: Shell, recording: Path, root: Path, tmp_path: Path
) -> None:
    said = shell("replay", tmp_path, "--candidate", "tiny", models=root)
    assert said.code == 1 and said.error.count("\n") == 1
    assert "expected a recording, got another folder" in said.error
    said = shell("replay", recording, "--candidate", "tiny:9", models=root)
    assert said.error == 'model "tiny": no version 9; available: 1, 2, 3\n'
    publish_tiny(root, "other", task="binary")
    said = shell("replay", recording, "--candidate", "other", "--model", "tiny", models=root)
    assert said.code == 1 and "expected an answer of 2 labels, got 4 from tiny:1" in said.error
    said = shell("replay", recording, "--candidate", "other", models=root)
    assert said.code == 1  # none of its rows


def test_rows_are_listed_shown_exported_and_erased(
    shell: Shell, model: LocalModel, tmp_path: Path
) -> None:
    folder = tmp_path / "recording"
    record(folder, model, PNGS[:5])
    where = "--recording", folder
    said = shell.plain("record", "list", *where, "--last", 2)
    assert said.code == 0 and "5 rows: 5 of tiny:1" in said.out
    assert "id-3" in said.out and "id-2" not in said.out
    said = shell.plain("record", "show", "id-2", *where, "--out", tmp_path / "look", "--json")
    assert said.document[0]["label"] == LABEL_N[2]
    assert (tmp_path / "look" / "id-2.png").read_bytes() == PNGS[2]
    said = shell.plain("record", "export", tmp_path / "all.tar", *where)
    assert said.code == 0 and said.out.startswith("5 rows in ")
    assert shell.plain("record", "export", tmp_path / "all.tar", *where).code == 1
    said = shell.plain("record", "erase", "--id", "id-2", "--id", "id-3", *where)
    assert (said.code, said.out) == (0, "2 rows erased\n")
    said = shell.plain("record", "show", "id-2", *where)
    assert said.code == 1 and "expected a recorded request, got none" in said.error
    assert shell.plain("record", "erase", "--id", "id-2", *where).code == 1
    assert shell.plain("record", "erase", *where).code == 2
    assert shell.plain("record", "erase", "--all", *where).out == "3 rows erased\n"


def test_it_is_a_source_of_score(shell: Shell, recording: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    said = shell("score", recording, "--model", "tiny:1", "--out", out, models=root)
    assert said.code == 0, said.error
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"id-{i}" for i in range(300)]
    assert [row["label"] for row in rows] == LABEL_N


@pytest.mark.parametrize("name", ["out.parquet", "out.tar", "folder"])
def test_it_is_exported_with_its_labels(recording: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    truths = {(f"id-{i}", 0): LABEL_N[i] for i in range(50)}
    rows = export(recording, out, Wanted("", truths, True), lambda _, truth: str(truth))  # type: ignore[arg-type]
    assert rows == 50
    if name == "out.parquet":
        from pyarrow import parquet

        table = parquet.read_table(out).to_pylist()
        assert [row["image"] for row in table] == PNGS[:50]
        assert [row["label"] for row in table] == LABEL_N[:50]
        assert [row["predicted"] for row in table] == LABEL_N[:50]
    elif name == "folder":
        for i in range(50):
            assert (out / LABEL_N[i] / f"id-{i}.png").read_bytes() == PNGS[i]


def test_pixels_become_pictures(model: LocalModel, tmp_path: Path) -> None:
    asked = ask(model, PNGS[:1], "pixels")
    asked.images, asked.pixels = None, IMAGES[:1]
    write(tmp_path, [asked])
    found = compare(tmp_path, model)
    assert (found.rows, found.equal) == (1, 1)
    ((sample, _),) = Wanted("", {}).rows(tmp_path)
    assert sample.ending == "npy"
    np.testing.assert_array_equal(model.decode(image_of(sample)), IMAGES[0])


def test_its_images_and_labels_measure_an_adopted_model(
    shell: Shell, model: LocalModel, tmp_path: Path
) -> None:
    folder, repository = tmp_path / "recording", ModelRepository(tmp_path / "models")
    record(folder, model, PNGS[:60])
    add_truths(folder, [{"id": f"id-{i}", "label": LABEL_N[i]} for i in range(50)])
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    words = ["adopt", save(foreign_model(channels=1), tmp_path), "--name", "adopted"]
    words += ["--labels", tmp_path / "labels.txt", "--scale", "1/255", "--images", folder]
    said = shell(*words, models=repository.root)
    assert said.code == 0, said.error
    metrics = repository.load("adopted", 1).metrics
    assert metrics is not None and metrics.images == 50
