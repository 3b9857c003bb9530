"""A plan beside a model and the real service: followed at the start, and when it appears."""

import dataclasses
import time
from pathlib import Path

import httpx
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from models.tuned import write_tuning
from tests.server import RunningServer, running_server
from tests.tiny import assert_own_result, publish_tiny, random_images
from tests.tuned import tuning_for


def assert_answers(server: RunningServer, gain: float, name: str = "tiny") -> None:
    (image,) = random_images(1)
    url = f"{server.url}/models/{name}/predict"
    answer = httpx.post(url, content=encode_png(image)).json()
    assert_own_result(answer["results"][0], image, gain)


def config(server: RunningServer, name: str = "tiny") -> dict[str, object]:
    document: dict[str, object] = httpx.get(f"{server.url}/v2/models/{name}/config").json()
    return document


@pytest.mark.e2e
def test_a_plan_is_followed_from_the_start_or_when_it_appears_and_one_for_elsewhere_is_not(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    plan = tuning_for(publish_tiny(models, lower={"int8": 3.0}), precision="int8")
    write_tuning(ModelRepository(models), "tiny", 1, plan)
    late = tuning_for(publish_tiny(models, "late", lower={"int8": 3.0}), precision="int8")
    elsewhere = dataclasses.replace(late.machine, cpu="another processor")
    write_tuning(ModelRepository(models), "late", 1, dataclasses.replace(late, machine=elsewhere))
    with running_server(models, tmp_path, max_batch_size=9, reload_s=0.1) as server:
        assert_answers(server, 3.0)
        said = config(server)
        assert said["max_batch_size"] == 9, "a variable that was set wins"
        assert said["instance_group"] == [{"name": "tiny", "count": 2, "kind": "KIND_CPU"}]
        assert said["parameters"] == {"plan": {"string_value": f"tuned {plan.date}"}}
        assert "as tuned on 2026-11-21T12:00:00+00:00" in server.log
        assert "parameters" not in config(server, "late")
        assert server.log.count("it was measured with cpu another processor") == 1
        assert_answers(server, 1.0, "late")
        write_tuning(ModelRepository(models), "late", 1, late)
        deadline = time.monotonic() + 30
        while "parameters" not in config(server, "late"):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        assert_answers(server, 3.0, "late")


@pytest.mark.e2e
def test_variables_win(tmp_path: Path) -> None:
    models = tmp_path / "models"
    artifact = publish_tiny(models, lower={"int8": 3.0})
    plan = tuning_for(artifact, precision="int8")
    write_tuning(ModelRepository(models), "tiny", 1, plan)
    with running_server(models, tmp_path, precision="fp32", instances=1) as server:
        assert_answers(server, 1.0)
        assert config(server)["max_batch_size"] == 7
