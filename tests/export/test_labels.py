import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.errors import AdoptError
from export.labels import own_labels, own_size, read_labels
from tests.export.foreign import foreign_model

BIRDS = ("tench, Tinca tinca", "crane", "maillot", "crane")
BY_INDEX = {str(index): label for index, label in enumerate(BIRDS)}
FILES = {
    "lines.txt": "\n".join(BIRDS),
    "windows.txt": "\ufeff" + "\r\n".join(BIRDS) + "\r\n",
    "list.json": json.dumps(BIRDS),
    "id2label.json": json.dumps(BY_INDEX),
    "config.json": json.dumps({"model_type": "resnet", "id2label": BY_INDEX}),
    "imagenet_class_index.json": json.dumps({i: ["n0", name] for i, name in BY_INDEX.items()}),
    "imagenet1000_clsidx_to_labels.txt": "{"
    + ",\n ".join(f"{index}: {label!r}" for index, label in enumerate(BIRDS))
    + "}",
    "labels.csv": 'index,label\n0,"tench, Tinca tinca"\n3,crane\n2,maillot\n1,crane\n',
    "labels.tsv": "id\tname\n" + "\n".join(f"{i}\t{name}" for i, name in BY_INDEX.items()),
    "names.csv": 'label\n"tench, Tinca tinca"\ncrane\nmaillot\ncrane\n',
    "unquoted.csv": "label\r\n" + "\r\n".join(BIRDS),
    "list.csv": '"tench, Tinca tinca"\n"crane"\nmaillot\ncrane\n',
    "spreadsheet.csv": "\ufefflabel;index\r\n"
    + "".join(f"{label};{index}\r\n" for index, label in reversed(list(enumerate(BIRDS)))),
    "nested.json": json.dumps({"model": {"config": {"id2label": BY_INDEX}}}),
    "timm.json": json.dumps({"pretrained_cfg": {"label_names": ["x"]}, "label_names": BIRDS}),
    "dataset.json": json.dumps({"features": {"image": {}, "label": {"names": BIRDS}}}),
    "objects.json": json.dumps([{"id": i, "name": n} for i, n in reversed(BY_INDEX.items())]),
}


def test_windows_writes_two_bytes_a_character(tmp_path: Path) -> None:
    path = tmp_path / "wide.txt"
    for encoding, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        path.write_bytes(mark + "\r\n".join(BIRDS).encode(encoding))
        assert read_labels(path) == BIRDS


@pytest.mark.parametrize("name", FILES)
def test_labels_are_read_as_people_keep_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name].encode())
    assert read_labels(path) == BIRDS


def test_class_to_idx_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"dog": 1, "cat": 0, "fox": 2}')
    assert read_labels(path) == ("cat", "dog", "fox")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "a\n\nb", "label 2: expected a label, got an empty one"),
        ("a.txt", "a", "expected 2 or more labels, got 1"),
        ("a.json", '{"0": "a", "2": "b"}', "no label of index 1"),
        ("a.json", '{"a": 0, "b": 0}', "index 0 twice"),
        ("a.json", '{"0": 1.5}', "1.5 where a label should be"),
        ("a.json", '{"x": "a", "y": "b"}', "'x' where an index should be"),
        ("a.json", "[1, 2]", "a list of other values"),
        ("a.json", "{", "neither JSON nor a Python dict"),
        ("a.txt", "{0: open('/etc/passwd').read()}", "neither JSON nor a Python dict"),
        ("a.csv", "shape,colour\n1,2\n", "the columns shape, colour"),
        ("a.csv", "index,label\n0,a\n1\n", "another number of cells"),
        ("a.csv", "0,a\n1,b\n", "add a header, as index,label"),
        ("a.csv", "a\n\nb\n", "label 2: expected a label, got an empty one"),
        ("a.json", '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "index 0 twice"),
        ("a.json", '{"names": {"0": {"x": 1}}}', "where a label should be"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(AdoptError, match=reason) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(AdoptError, match="expected a file of labels, got No such file"):
        read_labels(tmp_path / "missing")


def with_metadata(**properties: str) -> onnx.ModelProto:
    model = foreign_model()
    onnx.helper.set_model_props(model, properties)
    return model


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (own_labels, {"names": "{0: 'cat', 1: 'dog'}"}, ("cat", "dog")),
        (own_labels, {"foveal.labels": '["a", "b"]', "names": "{0: 'x', 1: 'y'}"}, ("a", "b")),
        (own_size, {"imgsz": "[224, 256]"}, (224, 256)),
        (own_size, {"imgsz": "64"}, (64, 64)),
        (own_size, {"imgsz": "[0, 1, 2]"}, None),
        (own_size, {"imgsz": "no"}, None),
    ],
)
def test_a_file_may_name_its_labels_and_size(
    read: Callable[[onnx.ModelProto], object], value: dict[str, str], expected: object
) -> None:
    assert read(with_metadata(**value)) == expected
    with pytest.raises(AdoptError, match="expected --labels"):
        own_labels(with_metadata(names="{0: __import__('os')}"))
