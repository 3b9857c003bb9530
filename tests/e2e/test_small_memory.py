"""The memory of a service that may have 512 MiB, under all that costs at once."""

import io
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from service.settings import load_settings
from tests.server import ROOT, RunningServer, free_port, running_server

grpc = pytest.importorskip("grpc")

pytestmark = pytest.mark.e2e

METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Of the container's 512 MiB; the rest is the service itself, with the shipped models.
FOR_REQUESTS_MIB = 200


def settings_by_memory(monkeypatch: pytest.MonkeyPatch, memory: int) -> dict[str, Any]:
    """What a worker with so many bytes of memory takes for itself."""
    monkeypatch.setattr("service.settings.available_memory", lambda: memory)
    settings = load_settings()
    names = "max_inflight_mib", "max_image_pixels", "max_body_bytes"
    return {name: getattr(settings, name) for name in names}


def photographs() -> list[bytes]:
    """12 megapixels in one scan, in ten without halved channels, as a PNG; and 33 megapixels."""
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    picture = Image.fromarray(noise).resize((4000, 3000))
    whole = picture.resize((6688, 5000))
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (picture, "JPEG", {}),
        (picture, "JPEG", {"progressive": True, "subsampling": 0}),
        (picture, "PNG", {"compress_level": 1}),
        (whole, "JPEG", {"progressive": True, "subsampling": 0}),
    ]
    encoded = []
    for image, kind, options in kinds:
        with io.BytesIO() as file:
            image.save(file, kind, **options)
            encoded.append(file.getvalue())
    return encoded


def peak_mib(server: RunningServer) -> float:
    """Largest memory of each worker since it was last reset, together."""
    status = [Path(f"/proc/{worker.pid}/status").read_text() for worker in server.workers()]
    return sum(int(re.findall(r"VmHWM:\s+(\d+)", each)[0]) for each in status) / 1024


@pytest.mark.thorough
@pytest.mark.skipif(not psutil.LINUX, reason="reads /proc")
def test_the_memory_of_the_image_is_enough(
    monkeypatch: pytest.MonkeyPatch, tiny_repository: Path, tmp_path: Path
) -> None:
    assert "--memory 512m" in (ROOT / "Makefile").read_text()
    pictures = photographs()
    pixels = ",".join(["1"] * 400 * 784)
    document = (
        f'{{"inputs":[{{"name":"images","datatype":"UINT8","shape":[400,28,28,1],"data":[{pixels}]}}]}}'
    ).encode()
    with (
        running_server(
            tiny_repository,
            tmp_path,
            grpc_port=free_port(),
            decode_threads=2,
            **settings_by_memory(monkeypatch, 512 << 20),
        ) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        httpx.Client(base_url=server.url, timeout=60) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        for worker in server.workers():
            Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # its peak is now: proc(5)
        before = peak_mib(server)
        infer = channel.unary_unary(METHOD)

        def ask_grpc() -> int:
            try:
                infer(bytes(3 << 20), timeout=60)
            except grpc.RpcError as error:
                return int(error.code().value[0])
            return 0

        def ask(path: str, body: bytes) -> Callable[[], int]:
            return lambda: client.post(path, content=body).status_code

        kinds = [ask("/predict", picture) for picture in pictures]
        kinds += [ask("/v2/models/tiny/infer", document), ask_grpc]
        seen = Counter(answer.result() for answer in [pool.submit(kind) for kind in kinds * 6])
        grown_mib = peak_mib(server) - before
        assert grown_mib < FOR_REQUESTS_MIB, f"{grown_mib:.0f} MiB"
        assert seen[200] >= 6
        assert seen[413] >= 6
        assert not {500, 502} & set(seen)
        assert client.get("/readyz").status_code == 200
