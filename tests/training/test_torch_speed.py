import pytest

from training.torch_speed import measure

pytestmark = pytest.mark.training


def test_a_network_is_measured_in_every_format() -> None:
    said = measure("digits/cnn", (1, 3), "cpu")
    assert len(said["skipped"]) == 4  # nothing is compiled without leave, and that is said
    assert [(f["format"], f["binding"], f["rows"]) for f in said["figures"]] == [
        (kind, "eager", rows) for kind in ("fp32", "tf32", "fp16") for rows in (1, 3)
    ]
    for figure in said["figures"]:
        assert figure["images_per_s"] == pytest.approx(figure["rows"] / figure["batch_us"] * 1e6)
    assert said["image_bytes"] == 64
    assert said["multiply_adds"] > said["image_bytes"]
    assert said["parameters"] > 0
