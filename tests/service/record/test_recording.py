"""Shards and their writer: whole after any kill, within their bounds, erased where they lie."""

import os
import resource
import stat
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.image import encode_png
from scoring.local import LocalModel
from service.record import writer as writing
from service.record.asked import Asked, uncertain_rows
from service.record.erasing import erase, erase_all
from service.record.reading import RecordingError, find, is_recording, read
from service.record.recorder import Choice, Recorder
from service.record.sample import key_of
from service.record.shards import Shard, find_shards, is_written, keep_ring, member
from service.record.truths import TRUTHS, add_truths, read_labels, read_truths
from service.record.writer import Bounds, Writer
from tests.guarded import until
from tests.recordings import BEGAN_S, ask, load, record, write
from tests.tiny import random_images

PNGS = [encode_png(image) for image in random_images(12, seed=5)]


@pytest.fixture
def model(tiny_repository: Path) -> LocalModel:
    return load(tiny_repository)


def ids_of(folder: Path) -> list[str]:
    return [entry.sample.id for entry in read(folder)]


def test_what_is_written_is_read(model: LocalModel, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    ids = record(folder, model, PNGS)
    entries = list(read(folder))
    assert [entry.sample.id for entry in entries] == ids
    for entry, png in zip(entries, PNGS, strict=True):
        assert (entry.sample.ending, entry.sample.content) == ("png", png)
        expected = model.run([model.decode(png)])[0]
        got = np.array(entry.sample.document["probabilities"], np.float32)
        np.testing.assert_array_equal(got, expected)
        assert entry.sample.document["label"] == model.artifact.labels[expected.argmax()]
    assert entries[3].sample.document["time"] == BEGAN_S + 0.03
    (shard,) = find_shards(folder)
    with tarfile.open(shard.path) as tar:
        names = [info.name for info in tar if info.isreg()]
    assert names[:2] == ["id-0.png", "id-0.json"] and len(names) == 2 * len(PNGS)


def test_the_newest_answer_of_an_id_is_found(model: LocalModel, tmp_path: Path) -> None:
    for png in PNGS[:2]:  # two shards
        write(tmp_path, [ask(model, [png], "same"), ask(model, PNGS[2:4], 'with "quotes"')])
    found = find(tmp_path, ["same", 'with "quotes"', "unknown"])
    assert set(found) == {("same", 0), ('with "quotes"', 0), ('with "quotes"', 1)}
    newest = model.run([model.decode(PNGS[1])])[0]
    assert found["same", 0]["index"] == newest.argmax()
    np.testing.assert_array_equal(np.array(found["same", 0]["probabilities"], np.float32), newest)


def test_only_the_owner_can_read(model: LocalModel, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "recording"
    record(folder, model, PNGS[:1])
    add_truths(folder, [{"id": "id-0", "index": 1}])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_shard_that_is_cut_anywhere_is_read_up_to_there(
    model: LocalModel, tmp_path: Path
) -> None:
    ids = record(tmp_path / "whole", model, PNGS[:3])
    (shard,) = find_shards(tmp_path / "whole")
    content = shard.path.read_bytes()
    ends = [entry.members[-1] for entry in read(tmp_path / "whole")]
    cut = tmp_path / "cut.tar"
    for size in range(0, len(content), 97):
        cut.write_bytes(content[:size])
        whole = sum(end.content_at + end.size <= size for end in ends)
        assert ids_of(cut) == ids[:whole], size


@pytest.mark.parametrize(
    ("id_", "rows", "key"),
    [("a-B_9", 1, "a-B_9"), ("a", 3, "a-1"), ("../../etc/passwd", 1, None), ("a.b", 1, None)],
)
def test_keys_are_plain_names(id_: str, rows: int, key: str | None) -> None:
    got = key_of(id_, rows // 2, rows)
    assert got == key if key is not None else got.startswith("x") and got.isalnum()


def test_ids_that_clients_repeat_stay_apart(model: LocalModel, tmp_path: Path) -> None:
    write(tmp_path, [ask(model, [png], "same") for png in PNGS[:3]])
    keys = [entry.sample.key for entry in read(tmp_path)]
    assert keys[0] == "same" and len(set(keys)) == 3
    assert ids_of(tmp_path) == ["same"] * 3


def test_a_header_is_what_tarfile_writes() -> None:
    info = tarfile.TarInfo("name.png")
    info.size, info.mtime, info.mode = 700, 1_700_000_000, 0o600
    head, _, padding = member(b"name.png", bytes(700), 1_700_000_000.9)
    assert head.replace(b"ustar\x0000", b"") == info.tobuf(tarfile.USTAR_FORMAT).replace(
        b"ustar\x0000", b""
    )
    assert len(padding) == 1024 - 700


def test_the_ring_deletes_the_oldest(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"2026112{number}T000000.000000-1.tar"
        path.write_bytes(bytes(1000))
        os.utime(path, (number * 100, number * 100))
    assert keep_ring(tmp_path, 3500, 0) == 3000
    assert [each.written_at for each in find_shards(tmp_path)] == [300, 400, 500]
    keep_ring(tmp_path, 1 << 20, 450)
    assert [each.written_at for each in find_shards(tmp_path)] == [500]


def test_the_ring_leaves_what_is_written(tmp_path: Path) -> None:
    shard = Shard(tmp_path)
    shard.append([bytes(1024)])
    assert is_written(shard.path)
    assert keep_ring(tmp_path, 0, time.time() + 60) == 1024
    shard.close()
    assert not is_written(shard.path)
    assert keep_ring(tmp_path, 0, 0) == 0


def test_a_recording_stays_within_its_bytes(model: LocalModel, tmp_path: Path) -> None:
    most = 2 << 20
    for batch in range(30):
        asked = [ask(model, [PNGS[batch % 12]], f"{batch}-{i}") for i in range(60)]
        write(tmp_path, asked, most_bytes=most)
    sizes = [each.size for each in find_shards(tmp_path)]
    assert most // 4 < sum(sizes) <= most
    assert ids_of(tmp_path)[-1] == "29-59"
    assert "0-0" not in ids_of(tmp_path)


def test_what_does_not_fit_on_the_disk_leaves_nothing_of_it(tmp_path: Path) -> None:
    shard = Shard(tmp_path)
    whole = [*member(b"a.json", b'{"id": "a"}', 0)]
    shard.append(whole)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            shard.append([*member(b"b.json", bytes(5000), 0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert shard.path.stat().st_size == shard.size == 1024
    shard.append([*member(b"c.json", b'{"id": "c"}', 0)])
    shard.close()
    assert ids_of(tmp_path / shard.path.name) == ["a", "c"]


def test_what_has_no_room_is_dropped(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "QUEUE_BYTES", 10_000)
    writer = Writer(Bounds(tmp_path, 1 << 30, 1e5))
    asked = ask(model, PNGS[:1], "large")
    asked.images = [PNGS[0] + bytes(6000)]
    for _ in range(50):
        writer.put(asked, None)
    writer.close(60)
    assert 1 <= len(ids_of(tmp_path)) < 50


def test_a_folder_that_cannot_be_written_stops_it_and_it_goes_on_later(
    model: LocalModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [BEGAN_S]
    folder = tmp_path / "recording"
    folder.write_text("a file in the way")
    writer = Writer(Bounds(folder, 1 << 30, 1e5), clock=lambda: now[0])

    def put(id_: str, until: str) -> None:
        deadline = time.monotonic() + 60
        while until not in caplog.text and time.monotonic() < deadline:
            if not writer._waiting:
                writer.put(ask(model, PNGS[:1], id_), None)
            time.sleep(0.01)
        assert until in caplog.text

    with caplog.at_level("INFO", "foveal.record"):
        put("lost", "recording stopped")
        folder.unlink()
        now[0] += writing.RETRY_S + 1
        put("kept", "recording goes on")
    writer.close(60)
    assert caplog.text.count("recording stopped") == 1
    assert set(ids_of(folder)) == {"kept"}


def test_it_goes_on_though_nothing_is_asked(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric, and with it the alert, must not wait for the next request."""

    def stopped() -> float | None:
        return REGISTRY.get_sample_value("foveal_record_stopped", {"keep": "idle"})

    monkeypatch.setattr(writing, "_WAKE_S", 0.01)
    now = [BEGAN_S]
    folder = tmp_path / "recording"
    folder.write_text("a file in the way")
    writer = Writer(Bounds(folder, 1 << 30, 1e5, keep="idle"), clock=lambda: now[0])
    writer.put(ask(model, PNGS[:1], "lost"), None)
    until(lambda: stopped() == 1, "it stops", 60)
    folder.unlink()
    now[0] += writing.RETRY_S + 1
    until(lambda: stopped() == 0, "it goes on", 60)
    writer.close(60)
    assert not find_shards(folder)


def test_erased_rows_are_gone_from_the_disk(model: LocalModel, tmp_path: Path) -> None:
    ids = record(tmp_path, model, PNGS[:4])
    add_truths(tmp_path, [{"id": id_, "index": 1} for id_ in ids])
    assert erase(tmp_path, {ids[1], "unknown"}) == 1
    assert ids_of(tmp_path) == [ids[0], *ids[2:]]
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert ids[1].encode() not in content and PNGS[1] not in content
    assert set(read_truths(tmp_path)) == {(ids[0], 0), (ids[2], 0), (ids[3], 0)}
    (shard,) = find_shards(tmp_path)
    with tarfile.open(shard.path) as tar:
        assert len([info for info in tar if info.isreg()]) == 6
    assert erase(tmp_path, {ids[1]}) == 0


def test_rows_are_erased_while_their_shard_is_written(model: LocalModel, tmp_path: Path) -> None:
    writer = Writer(Bounds(tmp_path, 1 << 30, 1e5))
    writer.put(ask(model, PNGS[:1], "first"), None)
    deadline = time.monotonic() + 60
    while not is_recording(tmp_path) or not ids_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert erase(tmp_path, {"first"}) == 1
    writer.put(ask(model, PNGS[1:2], "second"), None)
    writer.close(60)
    assert ids_of(tmp_path) == ["second"]
    assert len(find_shards(tmp_path)) == 1


def test_everything_is_erased(model: LocalModel, tmp_path: Path) -> None:
    record(tmp_path, model, PNGS)
    assert erase_all(tmp_path) == len(PNGS)
    assert not find_shards(tmp_path) and not ids_of(tmp_path)


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="expected a recording, got another folder"):
        ids_of(tmp_path)
    with pytest.raises(RecordingError, match="got none; FOVEAL_RECORD"):
        ids_of(tmp_path / "missing")


def test_truths(tmp_path: Path) -> None:
    add_truths(tmp_path, [{"id": "a", "label": "top"}, {"id": "b", "row": 2, "indexes": [1, 3]}])
    add_truths(tmp_path, [{"id": "a", "index": 2}])
    with (tmp_path / TRUTHS).open("a") as file:
        file.write('{"id": "cut", "ro')
    assert read_truths(tmp_path) == {("a", 0): 2, ("b", 2): (1, 3)}
    table = tmp_path / "labels.csv"
    table.write_text("id,row,label,index\na,,top,\nb,1,,3\n")
    assert read_labels(table) == {("a", 0): "top", ("b", 1): 3}
    table.write_text("name,label\n")
    with pytest.raises(RecordingError, match="expected the columns id and label"):
        read_labels(table)


def test_uncertain_rows(model: LocalModel) -> None:
    probabilities_NK = np.array([[0.9, 0.1, 0, 0], [0.5, 0.4, 0.1, 0]], np.float32)
    assert uncertain_rows(model.artifact, probabilities_NK, 0.6) == {1}
    assert uncertain_rows(model.artifact, probabilities_NK, 0.95) == {0, 1}


def test_a_share_is_chosen_at_random(model: LocalModel, tmp_path: Path) -> None:
    recorder = Recorder(Choice(0.1), Bounds(tmp_path, 1 << 30, 1))
    assert recorder.of(model.artifact, "fp32") is not None
    recorder.shares = {"tiny": 0.0}
    assert recorder.of(model.artifact, "fp32") is None
    recorder.shares = {"tiny": 0.02}
    recording = recorder.of(model.artifact, "fp32")
    assert recording is not None
    chosen = 0
    for _ in range(50_000):
        recording.left -= 1
        if recording.left < 0:
            chosen += 1
            recording._choose()
    assert 800 < chosen < 1200  # 1000 +- 6 standard deviations


def test_pixels_are_kept_of_formats_that_cannot_be_stripped(
    model: LocalModel, tmp_path: Path
) -> None:
    image = random_images(1, seed=9)[0]
    asked: Asked = ask(model, [encode_png(image)], "a")
    asked.images, asked.pixels = [b"GIF89a with a comment"], [image]
    write(tmp_path, [asked])
    ((sample),) = [entry.sample for entry in read(tmp_path)]
    assert sample.ending == "npy" and b"comment" not in sample.content
