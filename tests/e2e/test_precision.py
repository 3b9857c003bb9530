import json
from pathlib import Path

import httpx
import pytest

from models.image import encode_png
from tests.server import running_server
from tests.shell import Shell
from tests.tiny import assert_own_result, publish_tiny, random_images, tiny_model


@pytest.mark.e2e
def test_service_score_and_predict_answer_in_the_precision_of_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable for all three; a model without such a file answers in fp32 and says so."""
    models = tmp_path / "models"
    publish_tiny(models, "both", lower={"int8": 3.0})
    publish_tiny(models, "plain")
    images = random_images(4)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    shell = Shell(capsys, models)
    monkeypatch.setenv("FOVEAL_PRECISION", "int8")
    with running_server(models, tmp_path, precision="int8") as server:
        for name, gain, precision in (("both", 3.0, "int8"), ("plain", 1.0, "fp32")):
            url = f"{server.url}/models/{name}/predict"
            files = [(str(i), (tmp_path / f"{i}.png").read_bytes()) for i in range(4)]
            results = httpx.post(url, files=files).json()["results"]
            for result, image in zip(results, images, strict=True):
                assert_own_result(result, image, gain)
            here = shell("predict", *sorted(tmp_path.glob("*.png")), "--model", name, "--json")
            assert [r["predictions"] for r in here.document["results"]] == [
                result["predictions"] for result in results
            ]
            out = tmp_path / f"{name}.jsonl"
            assert shell("score", tmp_path / "*.png", "--model", name, "--out", out).code == 0
            rows = [json.loads(line) for line in out.read_text().splitlines()]
            assert [(row["label"], row["probability"]) for row in rows] == [
                (result["predictions"][0]["label"], result["predictions"][0]["probability"])
                for result in results
            ]
            assert server.metric("foveal_model_info", model=name, precision=precision) == 1
        assert "plain:1: expected an int8 file that passed its gate, got fp32" in server.log


@pytest.mark.e2e
def test_auto_serves_what_was_measured_to_be_the_fastest(tmp_path: Path) -> None:
    models = tmp_path / "models"
    publish_tiny(models, model=tiny_model(is_slow=True), lower={"int8": 3.0})
    (image,) = random_images(1)
    with running_server(models, tmp_path, precision="auto", threads=1) as server:
        answer = httpx.post(f"{server.url}/predict", content=encode_png(image)).json()
        assert_own_result(answer["results"][0], image, 3.0)
        assert server.metric("foveal_model_info", precision="int8") == 1
