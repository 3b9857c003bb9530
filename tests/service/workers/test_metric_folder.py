"""Each service's folder of metrics is its own, and those of killed services go."""

import subprocess
import sys
from pathlib import Path

from service.workers.metric_folder import forget_gauges
from tests.places import ROOT

# Makes its folder, says where, and waits for a line before it ends.
SERVICE = """
import sys
from pathlib import Path
from service.workers.metric_folder import own_folder
folder = own_folder(Path(sys.argv[1]))
(folder / "counter_1.db").write_bytes(b"")
print(folder, flush=True)
sys.stdin.readline()
"""


def start(home: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(home)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_lives_as_long_as_its_service(tmp_path: Path) -> None:
    first, of_first = start(tmp_path)
    second, of_second = start(tmp_path)
    with first, second:
        assert of_first != of_second and of_first.parent == of_second.parent
        assert of_first.exists() and of_second.exists()
        second.kill()
        second.wait()
        assert of_second.exists()
        third, of_third = start(tmp_path)
        with third:
            assert {*of_first.parent.iterdir()} == {of_first, of_third}
            third.communicate("")
        first.communicate("")
    assert not any(of_first.parent.iterdir())


def test_gauges_of_one_worker_are_deleted(tmp_path: Path) -> None:
    names = ["gauge_livesum_12.db", "gauge_livemax_12.db", "gauge_livesum_112.db", "counter_12.db"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    forget_gauges(tmp_path, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
