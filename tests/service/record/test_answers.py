"""Answers of late: found by whoever asks, forgotten in order, noted once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.record.answers import ABSTAINED, SHADOW, Answers, key_of, model_key

MODEL = model_key("tiny")
ROWS = 640


def fill(answers: Answers, numbers: range, version: int = 1) -> None:
    for i in numbers:
        answers.add(key_of(b"id-%d" % i), i % 3, float(i), (MODEL, version), (i, i / 1e6, 0))


def numbers_found(answers: Answers, numbers: range) -> list[int]:
    found = []
    for i in numbers:
        for answer in answers.find(key_of(b"id-%d" % i), i % 3, MODEL):
            assert (answer.index, answer.at, answer.version) == (i, float(i), 1)
            assert answer.confidence == pytest.approx(i / 1e6)
            found.append(i)
    return found


@pytest.mark.parametrize("count", [1, ROWS // 2, ROWS, 3 * ROWS + 17])
def test_the_last_rows_are_remembered(tmp_path: Path, count: int) -> None:
    answers = Answers(tmp_path, ROWS)
    fill(answers, range(count))
    with answers.locked():
        # One of 64 is not looked at: it may be written over meanwhile.
        first = max(0, count - ROWS + ROWS // 64) if count >= ROWS else 0
        assert numbers_found(answers, range(count)) == list(range(first, count))


def test_row_model_and_id_tell_answers_apart(tmp_path: Path) -> None:
    answers = Answers(tmp_path, ROWS)
    fill(answers, range(9))
    key = key_of(b"id-4")
    with answers.locked():
        assert [answer.index for answer in answers.find(key, 1, MODEL)] == [4]
        assert not answers.find(key, 0, MODEL)
        assert not answers.find(key, 1, model_key("other"))
        assert not answers.find(key_of(b"id-9"), 0, MODEL)


def test_all_workers_find_it_and_one_notes_the_truth(tmp_path: Path) -> None:
    first, second = Answers(tmp_path, ROWS), Answers(tmp_path, ROWS)
    fill(first, range(5))
    fill(second, range(5, 10))
    third = Answers(tmp_path, ROWS)
    for asking in (first, second, third):
        with asking.locked():
            assert numbers_found(asking, range(10)) == list(range(10))
    with third.locked():
        (answer,) = third.find(key_of(b"id-3"), 0, MODEL)
        assert answer.truth == 0
        third.note(answer, 7)
    with second.locked():
        assert second.find(key_of(b"id-3"), 0, MODEL)[0].truth == 7
        assert second.find(key_of(b"id-4"), 1, MODEL)[0].truth == 0


def test_a_repeated_id_is_the_latest_answer(tmp_path: Path) -> None:
    first, second = Answers(tmp_path, ROWS), Answers(tmp_path, ROWS)
    key = key_of(b"same")
    for at, answers in ((1.0, first), (3.0, second), (2.0, first)):
        answers.add(key, 0, at, (MODEL, 1), (int(at), 0.5, 0))
    first.add(key, 0, 4.0, (MODEL, 2), (9, 0.5, SHADOW | ABSTAINED))
    with first.locked():
        found = first.find(key, 0, MODEL)
    assert [answer.index for answer in found] == [9, 3, 2, 1]
    assert [answer.is_shadow for answer in found] == [True, False, False, False]
    assert found[0].is_abstained and not found[1].is_abstained


@pytest.mark.parametrize("labels", [4, 128, 129, 1000])
def test_labels_of_a_multi_label_model(tmp_path: Path, labels: int) -> None:
    answers = Answers(tmp_path, ROWS)
    size = (labels + 7) // 8
    given = [bytes((i * 7 + j) % 256 for j in range(size)) for i in range(20)]
    for i, bits in enumerate(given):
        answers.add_several(key_of(b"%d" % i), 2, float(i), (MODEL, 1), bits)
        shadows = bytes(255 - byte for byte in bits)
        answers.add_several(key_of(b"%d" % i), 2, i + 0.5, (MODEL, 2), shadows, SHADOW)
    with answers.locked():
        for i, bits in enumerate(given):
            shadow, served = answers.find(key_of(b"%d" % i), 2, MODEL)
            assert served.is_several and (answers.given(served, labels) or b"")[:size] == bits
            assert (answers.given(shadow, labels) or b"")[:size] == bytes(255 - b for b in bits)


_WRITER = """
import itertools, sys
from pathlib import Path
from service.record.answers import Answers, key_of, model_key
answers = Answers(Path(sys.argv[1]), 640)
for i in itertools.count():
    answers.add(key_of(b"id-%d" % i), i % 3, float(i), (model_key("tiny"), 1), (i, i / 1e6, 0))
    if i == 2000:
        print("begun", flush=True)
"""


@pytest.mark.thorough
def test_a_killed_worker_is_read_and_the_next_goes_on_in_its_place(tmp_path: Path) -> None:
    """While it writes, too: what is found is whole, or not found."""
    reader = Answers(tmp_path, ROWS)
    for kills in range(1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        with reader.locked():
            numbers_found(reader, range(100_000))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert len(list(tmp_path.glob("answers-*"))) == 2, kills
    with reader.locked():
        found = [n for n in numbers_found(reader, range(500_000)) if n]
    assert len(set(found)) >= ROWS // 2
