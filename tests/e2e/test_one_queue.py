"""Whatever a request comes in as, it lands in the same batches and gets the same bits."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.artifact import ModelArtifact
from models.image import decode, encode_png
from models.repository import ModelRepository
from tests.e2e.triton import objects, triton
from tests.server import ROOT, RunningServer, free_port, running_server
from tests.tiny import random_images, tiny_probabilities

pytestmark = pytest.mark.e2e

REPOSITORY = ModelRepository(ROOT / "models")
Ask = Callable[[RunningServer, ModelArtifact, bytes], list[float]]


def ranked(response: httpx.Response, artifact: ModelArtifact) -> list[float]:
    """Bring labels in their order of probability back to the order of their index."""
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    by_index = {p["index"]: p["probability"] for p in result["predictions"]}
    return [by_index[i] for i in range(len(artifact.labels))]


def ask_predict(server: RunningServer, artifact: ModelArtifact, image: bytes) -> list[float]:
    url = f"{server.url}/models/{artifact.name}/predict?top=10000"
    return ranked(httpx.post(url, content=image, timeout=30), artifact)


def ask_classify(server: RunningServer, artifact: ModelArtifact, image: bytes) -> list[float]:
    response = httpx.post(
        f"{server.url}/classify",
        files={"image": ("i.png", image, "image/png")},
        data={"model": artifact.name, "top": str(len(artifact.labels))},
        timeout=30,
    )
    return ranked(response, artifact)


def ask_triton(wire: str, *, is_encoded: bool) -> Ask:
    def ask(server: RunningServer, artifact: ModelArtifact, image: bytes) -> list[float]:
        row: Any = objects([image]) if is_encoded else decode(image, artifact.image)[None]
        with triton(server, wire) as client:
            asked = [client.output("probabilities")]
            result = client.infer(artifact.name, [client.input(row)], outputs=asked)
            values: list[float] = result.as_numpy("probabilities")[0].tolist()
            return values

    return ask


WAYS: dict[str, Ask] = {
    "predict": ask_predict,
    "classify": ask_classify,
    "json": ask_triton("http-json", is_encoded=False),
    "binary": ask_triton("http-binary", is_encoded=False),
    "binary-bytes": ask_triton("http-binary", is_encoded=True),
    "grpc": ask_triton("grpc", is_encoded=False),
    "grpc-bytes": ask_triton("grpc", is_encoded=True),
}


@pytest.mark.parametrize("name", REPOSITORY.names())
def test_every_way_in_gives_the_same_bits(shipped: RunningServer, name: str) -> None:
    artifact = REPOSITORY.load(*REPOSITORY.resolve(name))
    for golden in artifact.golden[:3]:
        image = REPOSITORY.read_file(artifact, golden.path)
        answers = {
            way: np.array(ask(shipped, artifact, image), np.float32).tobytes()
            for way, ask in WAYS.items()
        }
        assert len(set(answers.values())) == 1, answers


def test_every_way_in_shares_one_run(tiny_repository: Path, tmp_path: Path) -> None:
    """Rows are held back until as many wait as there are ways: then they run, all at once."""
    artifact = ModelRepository(tiny_repository).load("tiny", 1)
    images = random_images(len(WAYS), seed=15)
    with running_server(
        tiny_repository,
        tmp_path,
        grpc_port=free_port(),
        max_batch_size=len(WAYS),
        max_queue_delay_ms=10_000,
    ) as server:
        with ThreadPoolExecutor(len(WAYS)) as pool:
            answers = list(
                pool.map(
                    lambda ask, image: ask(server, artifact, encode_png(image)),
                    WAYS.values(),
                    images,
                )
            )
        np.testing.assert_allclose(answers, tiny_probabilities(images), atol=1e-6)
        assert server.metric("foveal_run_seconds_count") == 1
        assert server.metric("foveal_batch_rows_sum") == len(WAYS)
