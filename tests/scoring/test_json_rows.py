"""JSON rows: which values are images, damaged lines, COCO's odd annotations."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from models.image import encode_png
from scoring.files import FileRow
from scoring.json_rows import JsonlSource, JsonSource
from scoring.rows import ScoreError
from scoring.tables import Columns
from tests.tiny import random_images

PNG = encode_png(random_images(1)[0])
BASE64 = base64.b64encode(PNG).decode()


def images(source: JsonlSource | JsonSource) -> list[Any]:
    """Bytes, paths or errors."""
    found: list[Any] = []
    for chunk in source.chunks():
        for image in chunk.images:
            try:
                is_file = isinstance(image, FileRow)
                found.append(image.path if is_file else image.read())  # type: ignore[union-attr]
            except (ScoreError, AttributeError) as error:
                found.append(str(image if isinstance(image, ScoreError) else error))
    return found


@pytest.mark.parametrize(
    ("cell", "image"),
    [
        ("a.png", "a.png"),
        ("b\\a.png", "b/a.png"),
        ("https://example.com/a.png", "https://example.com/a.png"),
        (BASE64, PNG),
        (f"data:image/png;base64,{BASE64}", PNG),
        ("\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)), PNG),
        ({"bytes": BASE64, "path": "a.png"}, PNG),
        ({"bytes": None, "path": "a.png"}, "a.png"),
        ({"b64": BASE64}, PNG),
        ({"url": "https://example.com/a.png"}, "https://example.com/a.png"),
        ({"bytes": "!"}, "image: expected base64, got: "),
        ("", "image: expected bytes or a path, got nothing"),
        (None, "image: expected bytes or a path, got nothing"),
        ({}, "image: expected a path, a URL or base64, got another value"),
        (7, "image: expected a path, a URL or base64, got another value"),
    ],
)
def test_a_value_is_an_image(cell: object, image: object, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"image": cell}) + "\n")
    [found] = images(JsonlSource(str(path), Columns(image="image")))
    if isinstance(image, str) and not image.startswith(("image:", "https:")):
        image = f"{tmp_path}/{image}"
    assert found == image or (isinstance(found, str) and found.startswith(str(image)))


def test_a_line_that_is_damaged_is_a_row_with_an_error(tmp_path: Path) -> None:
    lines = ['{"file": "0.png", "label": NaN}', "", "{", "[1]", "[" * 100_000, "7"]
    lines.append('{"label": 1.0, "id": 7, "file": "6.png"}')
    (tmp_path / "t.jsonl").write_text("\ufeff" + "\n".join(lines))
    source = JsonlSource(str(tmp_path / "t.jsonl"), Columns(label="label", keep=("id", "none")))
    chunks = list(source.chunks())
    assert [id_ for chunk in chunks for id_ in chunk.ids][0::5] == ["0.png", "6.png"]
    assert [truth for chunk in chunks for truth in chunk.truths] == [None] * 5 + [1]
    assert [kept for chunk in chunks for kept in chunk.kept][-1] == (7, None)
    found = images(source)
    assert [f"{tmp_path}/{i}.png" for i in (0, 6)] == [found[0], found[-1]]
    assert all(error.startswith("table: expected a JSON object, got") for error in found[1:-1])
    assert [id_ for chunk in source.chunks(5) for id_ in chunk.ids] == ["6.png"]


def test_what_holds_no_objects_is_refused(tmp_path: Path) -> None:
    for name, content, match in (
        ("a.jsonl", "", "expected a JSON object on each line, got: none"),
        ("a.jsonl", "[1]\n", "expected a JSON object on each line, got: none"),
        ("a.jsonl", '{"x": 1}\n', "expected a column of images or paths, got x"),
        ("a.jsonl", '{"x": "a.png", "y": "b.png"}\n', "got x, y; name it with --image-column"),
        ("a.json", "{", "expected a JSON document, got: "),
        ("a.json", '{"image": "a.png"}', "expected a list of objects, or COCO's images and"),
        ("a.json", "[]", "expected a list of objects, or COCO's images and"),
        ("a.json", '{"images": [7]}', "expected a list of objects, or COCO's images and"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ScoreError, match=match):
            (JsonlSource if name == "a.jsonl" else JsonSource)(str(tmp_path / name), Columns())


def test_cocos_labels_are_the_names_of_its_categories(tmp_path: Path) -> None:
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 8} for i in range(4)],
        "annotations": [
            {"image_id": 0, "category_id": 1},
            {"image_id": 0, "category_id": 1},
            {"image_id": 1, "category_id": 1},
            {"image_id": 1, "category_id": 2},
            {"image_id": 2, "category_id": 3},  # a category without a name: no index of a label
            {"image_id": 9, "category_id": 1},
            {"image_id": [], "category_id": 1},
            7,
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, 7],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    source = JsonSource(str(tmp_path / "a.json"), Columns(keep=("width", "category")))
    [chunk] = source.chunks()
    assert chunk.truths == [("cat",), ("cat", "dog"), (), ()]
    assert chunk.kept[1] == (8, ["cat", "dog"])
    assert source.count() == 4
    assert images(source) == [f"{tmp_path}/{i}.jpg" for i in range(4)]
