"""Large models start within seconds and little more memory than their file."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.large import publish_large, resnet50, vit_large
from tests.server import running_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("build", "seconds", "files"), [(resnet50, 8, 2.5), (vit_large, 30, 1.5)], ids=str
)
def test_a_large_model_starts(
    tmp_path: Path, build: Callable[[], onnx.ModelProto], seconds: float, files: float
) -> None:
    """Processor seconds: on a free machine the start takes no longer."""
    publish_large(tmp_path / "repository", "large", build())
    size = (tmp_path / "repository/large/1/model.onnx").stat().st_size
    try:
        with running_server(tmp_path / "repository", tmp_path) as server:
            (worker,) = server.workers()
            spent = sum(psutil.Process(server.process.pid).cpu_times()[:2])
            spent += sum(worker.cpu_times()[:2])
            status = Path(f"/proc/{worker.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            assert found is not None
            assert spent < seconds, server.log
            # What a worker has without a model is some 130 MiB.
            assert int(found[1]) * 1024 < files * size + (130 << 20)
    finally:
        shutil.rmtree(tmp_path / "repository")
