import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from models import machine
from models.machine import available_cpus, available_memory

UNIFIED = "0::/system.slice/foveal.service\n"
FIRST = "4:memory:/docker/1f\n1:cpu,cpuacct:/docker/1f\n"


def limits(tmp_path: Path, groups: str, files: dict[str, str]) -> tuple[list[str], int, int]:
    """The folders of control groups, and what the machine's functions make of them."""
    root, own = tmp_path / "cgroup", tmp_path / "self"
    own.write_text(groups)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_CGROUPS", root)
        patch.setattr(machine, "_OWN_CGROUPS", own)
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        folders = [str(folder.relative_to(root)) for folder in machine._cgroups("memory")]
        return folders, available_cpus(), available_memory()


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (UNIFIED, {"cpu.max": "max 100000"}, 8),
        (UNIFIED, {"cpu.max": "150000 100000"}, 2),
        (UNIFIED, {"cpu.max": "50000 100000\n"}, 1),
        (UNIFIED, {"cpu.max": "nonsense"}, 8),
        (UNIFIED, {"cpu.max": ""}, 8),
        (UNIFIED, {"cpu.max": "100000 0"}, 8),
        (UNIFIED, {"system.slice/foveal.service/cpu.max": "300000 100000"}, 3),
        (UNIFIED, {"system.slice/cpu.max": "100000 100000", "cpu.max": "200000 100000"}, 1),
        (FIRST, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (FIRST, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (FIRST, {"cpu/cpu.cfs_quota_us": "200000\n"}, 8),
        (FIRST, {}, 8),
        ("", {"cpu.max": "100000 100000"}, 8),
    ],
)
def test_the_least_quota_holds(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    assert limits(tmp_path, groups, files)[1] == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (UNIFIED, {"memory.max": "max\n"}, None),
        (UNIFIED, {"memory.max": "1048576\n"}, 1 << 20),
        (UNIFIED, {"system.slice/foveal.service/memory.max": "1048576\n"}, 1 << 20),
        (UNIFIED, {"system.slice/memory.max": "1000000", "memory.max": "2000000"}, 1_000_000),
        (UNIFIED, {"memory.max": "nonsense"}, None),
        (FIRST, {"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
        (FIRST, {"memory/docker/1f/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
        (FIRST, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (FIRST, {}, None),
        ("", {"memory.max": "1048576\n"}, None),
    ],
)
def test_the_least_memory_limit_holds(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int | None
) -> None:
    assert limits(tmp_path, groups, files)[2] == (expected or psutil.virtual_memory().total)


def test_groups_are_read_outwards(tmp_path: Path) -> None:
    files = {"system.slice/foveal.service/memory.max": "max", "memory.max": "max"}
    assert limits(tmp_path, UNIFIED, files)[0] == [
        "system.slice/foveal.service",
        "system.slice",
        ".",
    ]


def test_without_control_groups_the_machine_is_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "none")
    assert available_memory() == psutil.virtual_memory().total


def test_available_cpus_is_within_the_machine() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
