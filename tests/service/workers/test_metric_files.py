"""prometheus-client's files take their room before it is written, or become memory."""

import inspect
import mmap
import os
import re
from pathlib import Path

import prometheus_client.mmap_dict
import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.workers.metric_files import take_room


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_client.mmap_dict, "mmap", mmap)
    take_room()


def test_names_inside_prometheus_client() -> None:
    source = inspect.getsource(prometheus_client.mmap_dict)
    assert source.count("mmap.mmap(") == 2
    names = set(re.findall(r"\bmmap\.(\w+)", source))
    assert names == {"mmap", "ACCESS_READ", "ACCESS_WRITE", "PAGESIZE"}


def test_room_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "counter_1.db")
    values = MmapedDict(path)  # type: ignore[no-untyped-call]
    status = os.stat(path)  # noqa: PTH116
    assert status.st_blocks * 512 >= status.st_size > 0
    for i in range(5000):  # grows several times
        values.write_value(f"key-{i}", float(i), 0.0)  # type: ignore[no-untyped-call]
    status = os.stat(path)  # noqa: PTH116
    assert status.st_blocks * 512 >= status.st_size > 100_000
    values.close()  # type: ignore[no-untyped-call]
    again = MmapedDict(path, read_mode=True)  # type: ignore[no-untyped-call]
    assert len(list(again.read_all_values())) == 5000  # type: ignore[no-untyped-call]
    again.close()  # type: ignore[no-untyped-call]


def test_without_room_the_numbers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted before goes on in memory."""
    values = MmapedDict(str(tmp_path / "counter_1.db"))  # type: ignore[no-untyped-call]
    values.write_value("before", 3.0, 0.0)  # type: ignore[no-untyped-call]

    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for i in range(5000):
        values.write_value(f"key-{i}", float(i), 0.0)  # type: ignore[no-untyped-call]
    assert values.read_value("before")[0] == 3.0  # type: ignore[no-untyped-call]
    assert values.read_value("key-4999")[0] == 4999.0  # type: ignore[no-untyped-call]
    values.close()  # type: ignore[no-untyped-call]
