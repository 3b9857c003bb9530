"""The ``image`` block of ``model.json``: every field checked, format 1 read as it was."""

import json
from dataclasses import replace
from typing import Any

import pytest

from models.artifact import ArtifactError, ImageSpec, ModelArtifact, OpenCVResize, Resize
from tests.tiny import build_tiny, tiny_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return build_tiny(tmp_path_factory.mktemp("artifact"), "tiny", 3, tiny_model())


@pytest.fixture
def document(artifact: ModelArtifact) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(artifact.to_json())
    return loaded


def read(document: Any) -> ModelArtifact:
    return ModelArtifact.from_json(json.dumps(document), "somewhere/model.json")


def with_image(document: dict[str, Any], **image: Any) -> dict[str, Any]:
    return document | {"image": {"mode": "L", "height": 8, "width": 8} | image}


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ({"height": 0}, "$.image.height: expected 1 to 16384 pixels, got 0"),
        ({"width": 1 << 15}, "$.image.width: expected 1 to 16384 pixels, got 32768"),
        ({"resize": {"height": 0}}, "$.image.resize.height: expected 1 to 16384 pixels, got 0"),
        ({"resize": {"width": -1}}, "$.image.resize.width: expected 1 to 16384 pixels, got -1"),
        ({"resize": {"filter": "area"}}, "$.image.resize.filter: expected nearest | box | "),
        ({"resize": {"side": "height"}}, "$.image.resize.side: expected both | shorter | longer"),
        ({"resize": "stretch"}, "$.image.resize: expected an object, got str"),
        ({"interpolation": "area"}, "$.image: expected no field 'interpolation'"),
        ({"background": [1, 2]}, "$.image.background: expected null or 3 values from 0 to 255"),
        ({"background": [1, 2, 256]}, "$.image.background: expected null or 3 values"),
        ({"crop": {"colour": [1, 2, 3]}}, "$.image.crop.colour: expected null or 1 values"),
        ({"crop": {"place": "bottom"}}, "$.image.crop.place: expected centre | top-left"),
        ({"exif": 1}, "$.image.exif: expected bool, got 1"),
    ],
)
def test_wrong_images_are_named(
    document: dict[str, Any], image: dict[str, Any], error: str
) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(with_image(document, **image))
    assert str(refused.value).startswith(f"somewhere/model.json: {error}")


def test_format_1_is_read_and_written_as_it_was(document: dict[str, Any]) -> None:
    image = {"resize": "crop", "interpolation": "cubic", "scaled_decoding": True}
    old = with_image(document, **image) | {"format": 1}
    artifact = read(old)
    assert artifact.image == ImageSpec(
        "L", 8, 8, OpenCVResize("crop", "cubic"), scaled_decoding=True
    )
    assert artifact.image.keeps_own_size
    assert artifact.format == 1
    assert json.loads(artifact.to_json()) == old
    assert read(with_image(document) | {"format": 1}).image.resize == OpenCVResize()
    for wrong in ({"resize": {"side": "both"}}, {"background": [1, 2, 3]}):
        with pytest.raises(ArtifactError, match=r"\$\.image"):
            read(with_image(document, **wrong) | {"format": 1})


def test_opencv_resizes_in_format_1_only(artifact: ModelArtifact) -> None:
    with pytest.raises(ArtifactError, match=r"image\.resize: expected Pillow's resize or none in"):
        replace(artifact, image=ImageSpec("L", 8, 8, OpenCVResize()))
    with pytest.raises(ArtifactError, match=r"image\.resize: expected OpenCV's resize in format 1"):
        replace(artifact, format=1)


def test_scaled_decoding_stays_at_twice_the_resize() -> None:
    to = ImageSpec("RGB", 224, 224, Resize("shorter", "bicubic", 256, 256), scaled_decoding=True)
    assert (to.least_decoded, to.resized, to.keeps_own_size) == (512, (256, 256), False)
    assert ImageSpec("RGB", 32, 48, scaled_decoding=True).least_decoded == 96
    assert ImageSpec("RGB", 32, 48).least_decoded is None
    assert ImageSpec("RGB", 32, 48, None, scaled_decoding=True).least_decoded is None
