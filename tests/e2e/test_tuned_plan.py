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


def assert_answers(server: RunningServer, gain: float) -> None:
    (image,) = random_images(1)
    answer = httpx.post(f"{server.url}/predict", content=encode_png(image)).json()
    assert_own_result(answer["results"][0], image, gain)


def config(server: RunningServer) -> dict[str, object]:
    document: dict[str, object] = httpx.get(f"{server.url}/v2/models/tiny/config").json()
    return document


@pytest.mark.e2e
def test_a_plan_is_followed_from_the_start_and_variables_win(tmp_path: Path) -> None:
    models = tmp_path / "models"
    artifact = publish_tiny(models, lower={"int8": 3.0})
    plan = tuning_for(artifact, precision="int8")
    write_tuning(ModelRepository(models), "tiny", 1, plan)
    with running_server(models, tmp_path, max_batch_size=9) as server:
        assert_answers(server, 3.0)
        said = config(server)
        assert said["max_batch_size"] == 9, "a variable that was set wins"
        assert said["instance_group"] == [{"name": "tiny", "count": 2, "kind": "KIND_CPU"}]
        assert said["parameters"] == {"plan": {"string_value": f"tuned {plan.date}"}}
        assert "as tuned on 2026-11-21T12:00:00+00:00" in server.log
    with running_server(models, tmp_path, precision="fp32", instances=1) as server:
        assert_answers(server, 1.0)
        assert config(server)["max_batch_size"] == 7


@pytest.mark.e2e
def test_a_plan_that_appears_is_followed_and_one_for_elsewhere_is_not(tmp_path: Path) -> None:
    models = tmp_path / "models"
    artifact = publish_tiny(models, lower={"int8": 3.0})
    plan = tuning_for(artifact, precision="int8")
    elsewhere = dataclasses.replace(plan.machine, cpu="another processor")
    write_tuning(ModelRepository(models), "tiny", 1, dataclasses.replace(plan, machine=elsewhere))
    with running_server(models, tmp_path, reload_s=0.1) as server:
        assert "parameters" not in config(server)
        assert server.log.count("it was measured with cpu another processor") == 1
        assert_answers(server, 1.0)
        write_tuning(ModelRepository(models), "tiny", 1, plan)
        deadline = time.monotonic() + 30
        while "parameters" not in config(server):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        assert_answers(server, 3.0)
