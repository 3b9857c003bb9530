import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.artifact import (
    ArtifactError,
    Crop,
    ImageSpec,
    ModelArtifact,
    ModelFile,
    Resize,
    TensorSpec,
)
from models.evidence import (
    Abstain,
    Gate,
    Metrics,
    Parity,
    Proof,
    Provenance,
    Selective,
    Statistics,
)
from tests.tiny import LABELS, build_tiny, tiny_model

# Fields that format 1 did not have at first.
TOP = ("abstain", "statistics", "task", "thresholds", "proof")
LATER = {*TOP, "gate", "computes", "calibration_error_before", "max_pixel_difference"}
LATER |= {"clip_16_bits", "confusion"}
# Fields that may be null.
NONE = {"metrics", "parity", "provenance", *LATER} - {"task", "thresholds", "clip_16_bits"}
# Fields of ``image`` that are true or false.
TRUTHS = ("scaled_decoding", "exif", "clip_16_bits")
# Fields of format 2's ``image`` that may be null (all but mode and size may be left out), and of a
# gate on images without labels.
NULL = (
    ("image", "resize"),
    *(("image", "resize", name) for name in ("height", "width")),
    ("image", "crop", "colour"),
    ("image", "background"),
    *(("files", 0, "gate", name) for name in ("accuracy", "accuracy_drop")),
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """One with every field filled."""
    folder: Path = tmp_path_factory.mktemp("artifact")
    built = build_tiny(folder, "tiny", 3, tiny_model())
    golden = tuple(golden.probabilities for golden in built.golden)
    gate = Gate("test", 100, 0.5, 0.001, 0.005, 0.99, 0.98, 0.01, golden)
    worth = Selective("test", 100, 0.9, 0.99)
    return replace(
        built,
        image=replace(
            built.image,
            resize=Resize("shorter", "bicubic", 10, 12, "half-even"),
            crop=Crop((7,), "top-left", "floor"),
            background=(1, 2, 3),
            clip_16_bits=True,
        ),
        files=(replace(built.files[0], gate=gate, computes="int8"),),
        abstain=Abstain(0.75, 0.99, worth, worth),
        statistics=Statistics(1000, 100.5, 50.5, (0.25,) * len(LABELS), 0.5),
        metrics=Metrics("test", 100, 0.5, (0.25,) * 3 + (None,), 0.01, 0.02, ((9, 1, 0, 0),) * 4),
        parity=Parity(100, (1, 2, 64), 1e-5, 1e-6, 1.0),
        provenance=Provenance("abc", "foveal train", 7, "digits", "0" * 64, {"torch": "2"}, "now"),
        task="multi-label",
        thresholds=(0.25,) * len(LABELS),
        proof=Proof("answers.csv", 300, 0.99, 1e-4, 1e-3, 0.5),
    )


@pytest.fixture
def document(artifact: ModelArtifact) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(artifact.to_json())
    return loaded


def read(document: Any) -> ModelArtifact:
    return ModelArtifact.from_json(json.dumps(document), "somewhere/model.json")


def test_round_trip(artifact: ModelArtifact) -> None:
    text = artifact.to_json()
    again = ModelArtifact.from_json(text)
    assert again == artifact
    assert again.to_json() == text
    assert ModelArtifact.from_json(text.encode()) == artifact


def test_round_trip_of_odd_text(artifact: ModelArtifact) -> None:
    files = (replace(artifact.files[0], gate=None),)
    artifact = replace(artifact, golden=(), files=files)
    odd = replace(artifact, labels=("naïve ☃", '"', "\\", "\n"))
    assert ModelArtifact.from_json(odd.to_json()) == odd


def test_optional_fields_may_be_left_out(document: dict[str, Any]) -> None:
    for name in ("temperature", "golden", "metrics", "parity", "provenance", *TOP):
        del document[name]
    del document["files"][0]["gate"]
    bare = read(document)
    assert (bare.temperature, bare.golden, bare.metrics) == (1.0, (), None)
    document |= {
        "metrics": None,
        "parity": None,
        "provenance": None,
        **dict.fromkeys(("abstain", "statistics", "proof")),
    }
    assert read(document) == bare


def test_fields_that_came_later_are_written_only_where_they_say_something(
    artifact: ModelArtifact, document: dict[str, Any]
) -> None:
    """What says nothing new still loads where nothing new is known."""
    assert all(f'"{name}"' in artifact.to_json() for name in LATER)
    for name in TOP:
        del document[name]
    del document["files"][0]["gate"], document["files"][0]["computes"]
    del document["metrics"]["calibration_error_before"], document["image"]["clip_16_bits"]
    del document["metrics"]["confusion"]
    text = read(document).to_json()
    assert not any(f'"{name}"' in text for name in LATER)
    assert json.loads(text) == document


def test_properties(artifact: ModelArtifact) -> None:
    assert artifact.reference == "tiny:3"
    assert artifact.file("fp32") == artifact.files[0] and artifact.file("int8") is None
    assert set(artifact.digests) == {"model.onnx", *(f"golden/{i}.png" for i in range(8))}
    assert artifact.image.shape_HWC == (8, 8, 1)
    assert ImageSpec("RGB", 2, 3).shape_HWC == (2, 3, 3)


def test_whole_numbers_are_read_as_floats(document: dict[str, Any]) -> None:
    document["temperature"] = 2
    assert isinstance(read(document).temperature, float)


# Every field, missing and mistyped


def paths(value: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of every field and of the first item of every list."""
    found: list[tuple[str | int, ...]] = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths(item, (*prefix, key))
    elif isinstance(value, list) and value:
        found += paths(value[0], (*prefix, 0))
    return found


def either(this: Any, _that: Any) -> Any:
    return this


def spelled(path: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)


def changed(document: Any, path: tuple[str | int, ...], change: Callable[[Any], Any]) -> Any:
    document = copy.deepcopy(document)
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = change(parent[path[-1]])
    return document


def test_every_mistyped_field_is_named_with_expected_and_got(document: dict[str, Any]) -> None:
    count = 0
    for path in paths(document):
        if path == ("format",):
            continue
        for wrong in (True, {"no": "such"}, ["list"], "text", 1.5, None):
            if isinstance(wrong, str) and takes_text(document, path):
                continue
            if isinstance(wrong, bool) and path[-1] in TRUTHS:
                continue
            if wrong is None and path in NULL:
                continue
            if isinstance(wrong, float) and takes_float(document, path):
                continue
            if wrong is None and path[-1] in NONE:
                continue
            if path[-2:-1] == ("per_class",) and (wrong is None or isinstance(wrong, float)):
                continue
            if isinstance(wrong, dict) and path[-1] in ("versions", "per_class"):  # free names
                continue
            with pytest.raises(ArtifactError) as refused:
                read(changed(document, path, partial(either, wrong)))
            message = str(refused.value)
            assert message.startswith("somewhere/model.json: $"), message
            place = message.removeprefix("somewhere/model.json: ").split(":")[0]
            assert place.startswith(spelled(path)), (path, wrong, message)
            assert "expected" in message
            assert "got" in message or "this format has none" in message
            assert "\n" not in message
            count += 1
    assert count > 200


def takes_text(document: Any, path: tuple[str | int, ...]) -> bool:
    value = document
    for step in path:
        value = value[step]
    literals = ("datatype", "mode", "side", "filter", "rounding", "place", "precision", "task")
    return isinstance(value, str) and path[-1] not in literals


def takes_float(document: Any, path: tuple[str | int, ...]) -> bool:
    value = document
    for step in path:
        value = value[step]
    return isinstance(value, float)


def test_every_required_field_that_is_missing_is_named(document: dict[str, Any]) -> None:
    optional = {
        "temperature",
        "metrics",
        "parity",
        "provenance",
        *LATER,
    }
    free = ("versions",)
    count = 0
    for path in paths(document):
        name = path[-1]
        if (
            name in optional
            or path == ("golden",)
            or (path[0] == "image" and path[1:] not in ((), ("mode",), ("height",), ("width",)))
            or isinstance(name, int)
            or (len(path) > 1 and path[-2] in free)
        ):
            continue
        broken = copy.deepcopy(document)
        parent: Any = broken
        for step in path[:-1]:
            parent = parent[step]
        del parent[name]
        with pytest.raises(ArtifactError) as refused:
            read(broken)
        assert f"{name!r}" in str(refused.value) or name == "format"
        count += 1
    assert count > 30


@pytest.mark.parametrize("path", [(), ("image",), ("files", 0), ("golden", 0), ("metrics",)])
def test_unknown_field(document: dict[str, Any], path: tuple[str | int, ...]) -> None:
    broken = copy.deepcopy(document)
    parent: Any = broken
    for step in path:
        parent = parent[step]
    parent["typo"] = 1
    with pytest.raises(ArtifactError, match="expected no field 'typo'"):
        read(broken)


# The whole


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ('{"a":' * 100_000, "expected JSON"),
        ("[]", "expected an object, got list"),
        ("1", "expected an object, got int"),
        ("null", "expected an object, got NoneType"),
        ("{}", "expected format 1 or 2, got None"),
        ('{"format": 3}', "expected format 1 or 2, got 3"),
        ('{"format": "1"}', "expected format 1 or 2, got '1'"),
        ('{"format": 2}', "expected a field 'name'"),
        ('{"format": true}', "expected"),
        ('{"format": 1}', "expected a field 'name'"),
        (b"\xff\xfe\x00", "expected JSON"),
        ('{"format": ' + "9" * 5000 + "}", "expected"),
    ],
)
def test_wrong_documents(text: str | bytes, match: str) -> None:
    with pytest.raises(ArtifactError, match=match) as refused:
        ModelArtifact.from_json(text, "here")
    assert str(refused.value).startswith("here: ")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("version",), 0, r"\$.version: expected a positive integer, got 0"),
        (("version",), -1, r"\$.version"),
        (("labels",), ["one"], r"\$.labels: expected 2 or more labels, got 1"),
        (("thresholds",), [0.5], r"\$.thresholds: expected 4 values from 0 to 1 of a multi-label"),
        (("thresholds",), [0.5] * 3 + [1.5], r"\$.thresholds: expected 4 values from 0 to 1"),
        (("task",), "single-label", r"\$.thresholds: expected 0 values .* of a single-label model"),
        (("task",), "binary", r"\$.labels: expected 2 labels of a binary model, got 4"),
        (("metrics", "per_class"), [0.5], r"\$.metrics.per_class: expected 4 values, got 1"),
        (("inputs",), [], r"\$.inputs: expected images UINT8 \[-1, 8, 8, 1\], got none"),
        (("inputs", 0, "name"), "pixels", r"got pixels UINT8"),
        (("inputs", 0, "datatype"), "FP32", r"got images FP32"),
        (("inputs", 0, "shape"), [-1, 1, 8, 8], r"got images UINT8 \[-1, 1, 8, 8\]"),
        (("inputs", 0, "shape"), [1, 8, 8, 1], r"got images UINT8 \[1, 8, 8, 1\]"),
        (("image", "height"), 9, r"\$.inputs: expected images UINT8 \[-1, 9, 8, 1\]"),
        (("image", "mode"), "RGB", r"\$.inputs: expected images UINT8 \[-1, 8, 8, 3\]"),
        (("outputs", 0, "name"), "scores", r"\$.outputs"),
        (("outputs", 1, "datatype"), "FP64", r"\$.outputs"),
        (("files", 0, "precision"), "int8", r"\$.files: expected an fp32 file"),
        (("files",), [], r"\$.files: expected an fp32 file"),
        (("files", 0, "path"), "../model.onnx", r"\$.files: expected a path inside"),
        (("files", 0, "path"), "/etc/passwd", r"\$.files: expected a path inside"),
        (("files", 0, "path"), "a/../../b", r"\$.files: expected a path inside"),
        (("files", 0, "path"), "https://host/model", r"\$.files: expected a path inside"),
        (("files", 0, "path"), "", r"expected a path inside"),
        (("files", 0, "path"), "model\0.onnx", r"expected a path inside"),
        (("golden", 0, "path"), "../../x.png", r"expected a path inside"),
        (("golden", 0, "probabilities"), [0.5, 0.5], r"golden\[0\].probabilities: expected 4"),
        (
            ("files", 0, "gate", "golden"),
            [[0.5]],
            r"\$.files\[0\].gate.golden: expected 8 lists of 4",
        ),
        (("abstain", "threshold"), 1.5, r"\$.abstain.threshold: expected 0 to 1, got 1.5"),
        (("statistics", "class_shares"), [1.0], r"\$.statistics.class_shares: expected 4 values"),
        (("temperature",), 0, r"\$.temperature"),
        (("temperature",), -1.0, r"\$.temperature"),
        (("temperature",), float("nan"), r"\$.temperature"),
        (("temperature",), 10**400, r"\$.temperature"),
        (("labels", 0), "\ud800", r"\$.labels"),
    ],
)
def test_contradictions(
    document: dict[str, Any], path: tuple[str | int, ...], value: Any, match: str
) -> None:
    with pytest.raises(ArtifactError, match=match):
        read(changed(document, path, lambda _old: value))


@pytest.mark.parametrize("labels", [["a", "b"], list("abcde")])
def test_as_many_labels_as_outputs(document: dict[str, Any], labels: list[str]) -> None:
    del document["task"], document["thresholds"]
    with pytest.raises(ArtifactError, match=rf"outputs: expected .* \[-1, {len(labels)}\]"):
        read(document | {"labels": labels})


def test_labels_may_be_equal(document: dict[str, Any]) -> None:
    """ImageNet has two cranes: the index tells them apart."""
    document["labels"] = ["crane"] * 4
    for golden in document["golden"]:
        golden["label"] = "crane"
    assert read(document).labels == ("crane",) * 4


def test_scores_by_label_are_read_in_the_order_of_the_labels(document: dict[str, Any]) -> None:
    """As releases wrote them whose labels had to differ."""
    document["metrics"]["per_class"] = {LABELS[2]: 0.5, LABELS[0]: 0.25}
    metrics = read(document).metrics
    assert metrics is not None
    assert metrics.per_class == (0.25, None, 0.5, None)


def test_contradiction_is_refused_where_it_is_made(artifact: ModelArtifact) -> None:
    with pytest.raises(ArtifactError, match="outputs"):
        replace(artifact, labels=("a", "b", "c"), thresholds=(0.5,) * 3)
    with pytest.raises(ArtifactError, match="fp32"):
        replace(artifact, files=(ModelFile("m.onnx", "int8", "0", 1),))
    with pytest.raises(ArtifactError, match="inputs"):
        replace(artifact, inputs=(TensorSpec("images", "UINT8", (-1, 8, 8)),))


def test_labels_can_be_written_by_the_service(artifact: ModelArtifact) -> None:
    for label in artifact.labels:
        orjson.dumps(label)


def test_labels_in_another_order_than_the_golden_answers(document: dict[str, Any]) -> None:
    """Served in all quiet once: "T-shirt/top" for the class that the graph calls "Ankle boot"."""
    document["labels"] = document["labels"][::-1]
    with pytest.raises(ArtifactError, match=r"\$\.golden\[0\]\.label: expected '\w+'.*got '\w+'"):
        read(document)
