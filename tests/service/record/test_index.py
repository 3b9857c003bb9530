"""The index finds what reading the whole recording would, and reads each byte of it once."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.image import encode_png
from scoring.local import LocalModel
from service.record.erasing import erase
from service.record.index import Index
from service.record.reading import RecordingError, read
from service.record.shards import Shard, find_shards, make_folder, member
from tests.recordings import ask, load, record, write
from tests.tiny import random_images

PNGS = [encode_png(image) for image in random_images(12, seed=5)]


@pytest.fixture
def model(tiny_repository: Path) -> LocalModel:
    return load(tiny_repository)


class Reads:
    """Bytes that were read from shards, as the index asked the system for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._real = 0, os.pread
        monkeypatch.setattr(os, "pread", self._pread)

    def _pread(self, *arguments: Any) -> bytes:
        self.count += 1
        return self._real(*arguments)


def test_the_newest_answer_of_an_id_is_found(model: LocalModel, tmp_path: Path) -> None:
    for png in PNGS[:2]:  # two shards
        write(tmp_path, [ask(model, [png], "same"), ask(model, PNGS[2:4], 'with "quotes"')])
    found = Index(tmp_path).find({"same", 'with "quotes"', "unknown"})
    assert set(found) == {("same", 0), ('with "quotes"', 0), ('with "quotes"', 1)}
    newest = model.run([model.decode(PNGS[1])])[0]
    assert found["same", 0]["index"] == newest.argmax()
    np.testing.assert_array_equal(np.array(found["same", 0]["probabilities"], np.float32), newest)


def test_a_large_recording_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id cost a reading of all of it: 12 s of processor time where it is 1 GiB."""
    make_folder(tmp_path)
    for first in range(0, 40_000, 10_000):
        shard = Shard(tmp_path)
        for number in range(first, first + 10_000):
            name = b"r-%d" % number
            text = b'{"id":"%b","row":0,"rows":1}' % name
            image = member(name + b".jpg", b"x" * 700, 0)
            shard.append([*image, *member(name + b".json", text, 0)])
        shard.close()
    reads = Reads(monkeypatch)
    index = Index(tmp_path)
    assert index.find({"never"}) == {}
    assert reads.count >= 80_000
    reads.count = 0
    for number in range(200):
        assert index.find({f"never-{number}"}) == {}
    assert reads.count <= 200 * 4  # the end of each shard, at which nothing is
    wanted = {f"r-{number}" for number in range(0, 40_000, 9)}
    assert {id_ for id_, _ in index.find(wanted)} == wanted


def test_what_is_written_meanwhile_is_found(model: LocalModel, tmp_path: Path) -> None:
    make_folder(tmp_path)
    shard, index = Shard(tmp_path), Index(tmp_path)
    assert index.find({"a"}) == {}
    image, text = member(b"a.png", PNGS[0], 0), member(b"a.json", b'{"id":"a","row":0}', 0)
    for part in (b"".join(image), b"".join(text)[:520]):
        shard.append([part])
        assert index.find({"a"}) == {}  # a part of it
    shard.append([b"".join(text)[520:]])
    assert set(index.find({"a"})) == {("a", 0)}
    shard.close()
    record(tmp_path, model, PNGS[:3])
    assert set(index.find({"a", "id-2"})) == {("a", 0), ("id-2", 0)}


def test_what_was_erased_or_deleted_is_not_found(model: LocalModel, tmp_path: Path) -> None:
    record(tmp_path, model, PNGS)
    index, after = Index(tmp_path), Index(tmp_path)
    assert len(index.find({"id-3", "id-4"})) == 2
    assert erase(tmp_path, {"id-3"}) == 1
    for each in (index, after):
        assert set(each.find({"id-3", "id-4", "id-5"})) == {("id-4", 0), ("id-5", 0)}
    (shard,) = find_shards(tmp_path)
    shard.path.unlink()
    assert index.find({"id-4"}) == {}


def test_a_shard_that_cannot_be_opened_hides_no_other(model: LocalModel, tmp_path: Path) -> None:
    for number, png in enumerate(PNGS[:3]):
        write(tmp_path, [ask(model, [png], f"id-{number}")])
    _, middle, _ = find_shards(tmp_path)
    middle.path.unlink()
    middle.path.symlink_to(middle.path.name)  # a loop: not even root opens it
    found = Index(tmp_path).find({"id-0", "id-1", "id-2"})
    assert set(found) == {("id-0", 0), ("id-2", 0)}


def test_any_cut_leaves_the_rows_before_it(model: LocalModel, tmp_path: Path) -> None:
    record(tmp_path, model, PNGS[:4])
    (shard,) = find_shards(tmp_path)
    whole = shard.path.read_bytes()
    ids = {f"id-{number}" for number in range(4)}
    for size in (*range(0, len(whole), 331), len(whole)):
        shard.path.write_bytes(whole[:size])
        expected = {(entry.sample.id, 0) for entry in read(tmp_path)}
        assert set(Index(tmp_path).find(ids)) == expected


def test_only_the_newest_shards_of_a_very_large_one_are_known(
    model: LocalModel, tmp_path: Path
) -> None:
    for number, png in enumerate(PNGS):
        write(tmp_path, [ask(model, [png], f"id-{number}")])
    index = Index(tmp_path, most_rows=3)
    ids = {f"id-{number}" for number in range(12)}
    assert {id_ for id_, _ in index.find(ids)} == {"id-9", "id-10", "id-11"}
    write(tmp_path, [ask(model, PNGS[:1], "id-12")])
    assert {id_ for id_, _ in index.find(ids | {"id-12"})} == {"id-10", "id-11", "id-12"}


def test_no_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="expected a recording"):
        Index(tmp_path).find({"a"})
