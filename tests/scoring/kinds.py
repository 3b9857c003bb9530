"""Every kind of source, made of the same five images with known labels."""

import base64
import csv
import gzip
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

from models.image import encode_png
from scoring.tables import Columns
from tests.scoring.containers import as_npz, as_tar, as_zip, wds_tar
from tests.tiny import LABELS, random_images, tiny_probabilities

ROWS = 5
IMAGES = random_images(ROWS, seed=21)
BEST = tiny_probabilities(IMAGES).argmax(axis=1).tolist()
NAMES = [LABELS[index] for index in BEST]
PNGS = [encode_png(image) for image in IMAGES]
# Every image as many bytes: PGM.
PGMS = [b"P5 8 8 255\n" + image.tobytes() for image in IMAGES]
LABEL = Columns(label="label")


@dataclass
class Kind:
    """A kind of source.

    Attributes:
        group: What it belongs to.
        name: What the table calls it.
        build: Makes it in a folder that has ``images/0.png`` and so on; returns the arguments.
        columns: The columns of a table to use.
        stdin: What standard input holds.
    """

    group: str
    name: str
    build: Callable[[Path], list[Path | str]]
    columns: Columns = field(default_factory=lambda: LABEL)
    stdin: Callable[[Path], bytes] = lambda _: b""


def write_images(folder: Path) -> list[Path]:
    """Write the images as files; return them."""
    (folder / "images").mkdir(parents=True)
    paths = [folder / "images" / f"{i}.png" for i in range(ROWS)]
    for path, png in zip(paths, PNGS, strict=True):
        path.write_bytes(png)
    return paths


def in_folders(folder: Path) -> list[Path | str]:
    for i, (name, png) in enumerate(zip(NAMES, PNGS, strict=True)):
        (folder / "all" / name).mkdir(parents=True, exist_ok=True)
        (folder / "all" / name / f"{i}.png").write_bytes(png)
    return [folder / "all"]


# Tables of Arrow's types


def structs(contents: Any) -> Any:
    return pyarrow.StructArray.from_arrays(
        [contents, pyarrow.nulls(ROWS, pyarrow.string())], ["bytes", "path"]
    )


def table(images: Any, label: Any = None, features: Any = None) -> Any:
    made = pyarrow.table({"image": images, "label": NAMES if label is None else label})
    if features is not None:
        noted = {"huggingface": json.dumps({"info": {"features": features}})}
        made = made.replace_schema_metadata(noted)
    return made


def paths_table() -> Any:
    paths = pyarrow.array([f"images/{i}.png" for i in range(ROWS)])
    return table(paths.dictionary_encode(), pyarrow.array(NAMES).dictionary_encode())


def hf_table() -> Any:
    """Numbers that are not the model's: the names stand in another order."""
    names = sorted(LABELS)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return table(structs(pyarrow.array(PNGS)), [names.index(name) for name in NAMES], features)


def array3d_table() -> Any:
    features = {"image": {"shape": [8, 8, 1], "dtype": "uint8", "_type": "Array3D"}}
    kind = pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.uint8())))
    return table(pyarrow.array(IMAGES.tolist(), kind), None, features)


def tensor_table() -> Any:
    return table(pyarrow.FixedShapeTensorArray.from_numpy_ndarray(IMAGES))


def listed(kind: Any, images: list[bytes] = PNGS) -> Any:
    return pyarrow.array([list(image) for image in images], kind)


def parquet(made: Any, folder: Path) -> list[Path | str]:
    pyarrow.parquet.write_table(made, folder / "t.parquet")
    return [folder / "t.parquet"]


def arrow(made: Any, folder: Path, name: str = "t.arrow", *, is_stream: bool = False) -> list[Any]:
    new = pyarrow.ipc.new_stream if is_stream else pyarrow.ipc.new_file
    with new(folder / name, made.schema) as writer:
        writer.write_table(made, max_chunksize=2)
    return [folder / name]


def feather(folder: Path, **options: Any) -> list[Path | str]:
    with warnings.catch_warnings():  # its first version is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        pyarrow.feather.write_feather(table(PNGS), folder / "t.feather", **options)
    return [folder / "t.feather"]


def saved(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrow(hf_table(), folder, "data-00000-of-00001.arrow", is_stream=True)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "test"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def saved_splits(folder: Path) -> list[Path | str]:
    saved(folder / "set" / "test")
    (folder / "set" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    return [folder / "set"]


# Texts


def delimited(
    folder: Path,
    *,
    name: str = "t.csv",
    delimiter: str = ",",
    header: tuple[str, ...] = ("path", "label"),
    encoding: str = "utf-8",
    path: str = "images/{}.png",
    quoting: int = csv.QUOTE_MINIMAL,
) -> list[Path | str]:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    if header:
        writer.writerow(header)
    writer.writerows((path.format(i), label) for i, label in enumerate(NAMES))
    return text(folder, name, made.getvalue().encode(encoding))


def windows(folder: Path) -> list[Path | str]:
    for image in list((folder / "images").iterdir()):
        image.rename(folder / "images" / f"Größe {image.name}")
    return delimited(folder, path="images/Größe {}.png", encoding="cp1252")


def text(folder: Path, name: str, content: bytes) -> list[Path | str]:
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return [folder / name]


def semicolons() -> bytes:
    return "".join(f"images/{i}.png;{label}\n" for i, label in enumerate(NAMES)).encode()


def with_notes(folder: Path, notes: list[str]) -> list[Path | str]:
    """Write a CSV whose third column holds what is given, as it is."""
    rows = zip(range(ROWS), NAMES, notes, strict=True)
    lines = [f"images/{i}.png,{label},{note}\n" for i, label, note in rows]
    return text(folder, "t.csv", "".join(["path,label,notes\n", *lines]).encode())


def json_lines(
    folder: Path, image: Callable[[int], Any], name: str = "t.jsonl"
) -> list[Path | str]:
    rows = [{"image": image(i), "label": label} for i, label in enumerate(NAMES)]
    return text(folder, name, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def broken_lines(folder: Path) -> list[Path | str]:
    [path] = json_lines(folder, path_of)
    content = Path(path).read_text().splitlines(keepends=True)
    Path(path).write_text("".join([*content[:2], '{"image": "images\n', *content[2:]]))
    return [path]


def json_list(folder: Path) -> list[Path | str]:
    rows = [{"image": path_of(i), "label": label} for i, label in enumerate(NAMES)]
    return text(folder, "t.json", json.dumps(rows).encode())


def path_of(row: int) -> str:
    return f"images/{row}.png"


def coco(
    folder: Path, name: str = "annotations.json", image: Callable[[int], str] = path_of
) -> list[Path | str]:
    document = {
        "images": [{"id": 10 + i, "file_name": image(i)} for i in range(ROWS)],
        "annotations": [
            {"id": 2 * i + twice, "image_id": 10 + i, "category_id": 90 + index}
            for i, index in enumerate(BEST)
            for twice in range(2)  # two boxes of one category
        ],
        "categories": [{"id": 90 + i, "name": name} for i, name in enumerate(LABELS)],
    }
    (folder / name).parent.mkdir(exist_ok=True)
    return text(folder, name, json.dumps(document).encode())


def coco_folders(folder: Path) -> list[Path | str]:
    """As COCO's own archives are unpacked."""
    (folder / "images").rename(folder / "val2017")
    return coco(folder, "annotations/instances_val2017.json", lambda i: f"{i}.png")


def base64_of(row: int) -> str:
    return base64.b64encode(PNGS[row]).decode()


def listed_paths(folder: Path, name: str, separator: str) -> list[Path | str]:
    [root] = in_folders(folder)
    paths = sorted(str(path.relative_to(folder)) for path in Path(root).rglob("*.png"))
    return text(folder, name, separator.join([*paths, ""]).encode())


def standard_input(separator: bytes) -> Callable[[Path], bytes]:
    def found(folder: Path) -> bytes:
        return b"".join(bytes(path) + separator for path in sorted((folder / "all").rglob("*.png")))

    return found


def npy(folder: Path) -> list[Path | str]:
    np.save(folder / "t.npy", IMAGES)
    return [folder / "t.npy"]


U8, I64 = pyarrow.uint8(), pyarrow.int64()
NO_COLUMNS = Columns()
PARQUET = {
    "binary": table(PNGS),
    "large binary": table(pyarrow.array(PNGS, "large_binary")),
    "fixed-size binary": table(pyarrow.array(PGMS, pyarrow.binary(len(PGMS[0])))),
    "struct {bytes, path}, ClassLabel by its names": hf_table(),
    "`list<uint8>`": table(listed(pyarrow.list_(U8))),
    "`list<int64>`": table(listed(pyarrow.list_(I64))),
    "fixed-size `list<uint8>`": table(listed(pyarrow.list_(U8, len(PGMS[0])), PGMS)),
    "struct with `bytes` as `list<uint8>`": table(structs(listed(pyarrow.list_(U8)))),
    "Array3D: pixels as nested lists": array3d_table(),
    "tensors of one shape (Arrow's extension)": tensor_table(),
    "a dictionary of images": table(pyarrow.array(PNGS).dictionary_encode()),
    "paths and labels as categories (pandas)": paths_table(),
    "labels 1.0, one missing": table(PNGS, [None, *map(float, BEST[1:])]),
    "labels in lists of one": table(PNGS, [[index] for index in BEST]),
    "labels in other letters": table(PNGS, [name.upper() for name in NAMES]),
}
KINDS = [
    Kind("files", "a folder, a folder in it for each label", in_folders, NO_COLUMNS),
    Kind(
        "files",
        "paths on standard input, a line each",
        lambda folder: ["-"] if in_folders(folder) else [],
        NO_COLUMNS,
        standard_input(b"\n"),
    ),
    Kind(
        "files",
        "paths on standard input, NULs between them (`find -print0`)",
        lambda folder: ["-"] if in_folders(folder) else [],
        NO_COLUMNS,
        standard_input(b"\0"),
    ),
    Kind("lists", "`.txt`, a path a line", lambda f: listed_paths(f, "t.txt", "\n"), NO_COLUMNS),
    Kind(
        "lists", "`.txt`, lines of Windows", lambda f: listed_paths(f, "t.txt", "\r\n"), NO_COLUMNS
    ),
    Kind("lists", "`.txt`, NULs", lambda f: listed_paths(f, "t.txt", "\0"), NO_COLUMNS),
    Kind("lists", "`.txt.gz`", lambda f: listed_paths(f, "t.txt.gz", "\n"), NO_COLUMNS),
    Kind(
        "archives",
        "zip",
        lambda folder: [as_zip(folder / "t.zip", sorted((folder / "images").iterdir()))],
        NO_COLUMNS,
    ),
    Kind(
        "archives",
        "tar.gz",
        lambda folder: [as_tar(folder / "t.tar.gz", sorted((folder / "images").iterdir()), "w:gz")],
        NO_COLUMNS,
    ),
    Kind("archives", "WebDataset", lambda f: [wds_tar(f / "t.tar", IMAGES, BEST)], NO_COLUMNS),
    Kind("arrays", "`.npy`, uint8 [N, H, W, C]", npy, NO_COLUMNS),
    Kind(
        "arrays",
        "`.npz` with labels [N, 1] (Keras)",
        lambda f: [as_npz(f / "t.npz", IMAGES, np.array(BEST)[:, None])],
        NO_COLUMNS,
    ),
    Kind(
        "arrays",
        "`.npz` with labels that are floats",
        lambda f: [as_npz(f / "t.npz", IMAGES, np.array(BEST, np.float32))],
        NO_COLUMNS,
    ),
    *(Kind("Parquet", name, partial(parquet, made)) for name, made in PARQUET.items()),
    Kind(
        "Parquet",
        "a field: `--image-column image.bytes`",
        partial(parquet, table(structs(pyarrow.array(PNGS)))),
        Columns(image="image.bytes", label="label"),
    ),
    Kind("Arrow", "`.arrow`, a file", partial(arrow, table(PNGS))),
    Kind("Arrow", "`.arrow`, a stream", partial(arrow, table(PNGS), is_stream=True)),
    Kind("Arrow", "views of bytes", partial(arrow, table(pyarrow.array(PNGS, "binary_view")))),
    Kind("Arrow", "views of lists", partial(arrow, table(listed(pyarrow.list_view(U8))))),
    Kind(
        "Arrow",
        "a dictionary of images",
        partial(arrow, table(pyarrow.array(PNGS).dictionary_encode()), is_stream=True),
    ),
    Kind("Arrow", "Feather, lz4", lambda f: feather(f, compression="lz4")),
    Kind("Arrow", "Feather, zstd", lambda f: feather(f, compression="zstd")),
    Kind("Arrow", "Feather's version 1", lambda f: feather(f, version=1)),
    Kind("Arrow", "a folder of `save_to_disk`", lambda f: [saved(f / "set")]),
    Kind("Arrow", "a folder of `save_to_disk` with splits", saved_splits),
    Kind("Arrow", "a folder that holds such a folder", lambda f: [saved(f / "all/set").parent]),
    Kind("CSV", "commas", delimited),
    Kind("CSV", "semicolons", partial(delimited, delimiter=";")),
    Kind("CSV", "tabs, `.tsv`", partial(delimited, name="t.tsv", delimiter="\t")),
    Kind("CSV", "tabs, `.csv`", partial(delimited, delimiter="\t")),
    Kind("CSV", "another delimiter", partial(delimited, delimiter="|")),
    Kind("CSV", "`.csv.gz`", partial(delimited, name="t.csv.gz")),
    Kind("CSV", "`.tsv.gz`", partial(delimited, name="t.tsv.gz", delimiter="\t")),
    Kind("CSV", "UTF-8 with a mark (BOM)", partial(delimited, encoding="utf-8-sig")),
    Kind(
        "CSV",
        "UTF-16 (Excel's Unicode text)",
        partial(delimited, delimiter="\t", encoding="utf-16"),
    ),
    Kind("CSV", "Windows-1252 (Excel's CSV)", windows),
    Kind(
        "CSV",
        "`sep=;` as the first line (Excel)",
        lambda folder: text(folder, "t.csv", b"sep=;\npath;label\n" + semicolons()),
    ),
    Kind("CSV", "every cell in quotes", partial(delimited, quoting=csv.QUOTE_ALL)),
    Kind("CSV", "spaces around names of columns", partial(delimited, header=(" path", "label  "))),
    Kind("CSV", "paths of Windows", partial(delimited, path="images\\{}.png")),
    Kind("CSV", "a cell of 140,000 characters", partial(with_notes, notes=["x" * 140_000] * ROWS)),
    Kind("CSV", "a quote within quotes", partial(with_notes, notes=['"a 5" screen"'] * ROWS)),
    Kind("CSV", "a quote that is never closed", partial(with_notes, notes=['"5 inch', *"abcd"])),
    Kind("CSV", "a line end within quotes", partial(with_notes, notes=['"a\nb"'] * ROWS)),
    Kind("CSV", "no header", partial(delimited, header=()), NO_COLUMNS),
    Kind(
        "CSV",
        "no header, `--label-column 2`",
        partial(delimited, header=()),
        Columns(label="2"),
    ),
    Kind("CSV", "no header, a name as `--label-column`", partial(delimited, header=())),
    Kind("JSON", "`.jsonl`, paths", partial(json_lines, image=path_of)),
    Kind("JSON", "`.jsonl.gz`", partial(json_lines, image=path_of, name="t.jsonl.gz")),
    Kind("JSON", "base64", partial(json_lines, image=base64_of)),
    Kind(
        "JSON",
        "`data:image/png;base64,…`",
        partial(json_lines, image=lambda i: f"data:image/png;base64,{base64_of(i)}"),
    ),
    Kind(
        "JSON",
        '`{"image": {"bytes": …}}`, `{"path": …}`',
        partial(
            json_lines,
            image=lambda i: {"bytes": base64_of(i)} if i % 2 else {"path": path_of(i)},
        ),
    ),
    Kind(
        "JSON",
        "a field: `--image-column image.data`",
        partial(json_lines, image=lambda i: {"data": path_of(i)}),
        Columns(image="image.data", label="label"),
    ),
    Kind("JSON", "a line that is no JSON among others", broken_lines),
    Kind("JSON", "`.json`, a list of objects", json_list),
    Kind("JSON", "`.json`, COCO's annotations", coco, NO_COLUMNS),
    Kind("JSON", "`.json`, COCO's own folders", coco_folders, NO_COLUMNS),
]
