import hashlib
import io
import pickle
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.training.files import (
    CIFAR_BATCHES,
    make_pngs,
    pickle_batch,
    write_cifar,
    write_parquet,
)
from training.datasets import cifar
from training.datasets.cifar import LABELS, read_batch
from training.datasets.sources import load_dataset
from training.errors import DatasetError

pytestmark = pytest.mark.training


def test_the_official_format_is_read(tmp_path: Path) -> None:
    dataset = load_dataset("cifar10", write_cifar(tmp_path))
    assert dataset.labels == LABELS
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.mode == "RGB"
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (180, 20, 40)
    assert dataset.train.images_NHWC.dtype == np.uint8
    assert dataset.train.images_NHWC.flags["C_CONTIGUOUS"]


def test_planes_become_pixels(tmp_path: Path) -> None:
    data = np.zeros((1, 3072), np.uint8)
    # Row 2, column 5 of each plane: red, green, blue.
    data[0, [2 * 32 + 5, 1024 + 2 * 32 + 5, 2048 + 2 * 32 + 5]] = 10, 20, 30
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle_batch(data, [7]))
    split = read_batch(path)
    assert split.images_NHWC[0, 2, 5].tolist() == [10, 20, 30]
    assert split.images_NHWC.sum() == 60
    assert split.targets_N.tolist() == [7]


@pytest.mark.parametrize("protocol", range(5))
def test_copies_written_by_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    data = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    path = tmp_path / "data_batch_1"
    content = {b"data": data, b"labels": [3, 4]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_batch(path).images_NHWC[1, 0, 1].tolist() == [1, 1, 1]


def test_the_folder_above_and_the_parquet_copy_are_found(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py")
    assert len(load_dataset("cifar10", tmp_path).test) == 40
    for part in ("train", "test"):
        labels = [row % 10 for row in range(20)]
        write_parquet(tmp_path / f"{part}.parquet", make_pngs(20, 32), labels, list(LABELS))
    assert len(load_dataset("cifar10", tmp_path).test) == 20
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", make_pngs(4, 32), [0, 1] * 2, ["cat", "dog"])
    with pytest.raises(DatasetError, match="expected the labels of CIFAR-10, got cat, dog"):
        load_dataset("cifar10", tmp_path)


class Calls:
    """Pickles to a call of any function, as an attacker would write it."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [eval, np.load, Path.unlink])
def test_a_pickle_cannot_run_anything(
    tmp_path: Path, function: Callable[..., object], protocol: int
) -> None:
    path, touched = tmp_path / "data_batch_1", tmp_path / "touched"
    argument = f"open({str(touched)!r}, 'w')"
    path.write_bytes(pickle.dumps({"data": Calls(function, argument)}, protocol=protocol))
    with pytest.raises(DatasetError, match=r"expected an official batch .*, which no batch needs"):
        read_batch(path)
    assert not touched.exists()


ROWS = np.zeros((3, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got Ran out of input"),
        (b"\x89PNG", "expected an official batch of CIFAR-10, got "),
        (pickle_batch(ROWS, [0, 1, 2])[:-100], "expected an official batch of CIFAR-10, got "),
        (pickle.dumps([1]), "expected a dictionary, got list"),
        (pickle.dumps({"data": ROWS}), "array data and a list labels, got ndarray and NoneType"),
        (pickle_batch(ROWS, [0, 10, 2]), "labels 0 to 9, got 10 at row 1"),
        (pickle_batch(ROWS, [0, 1, -1]), "labels 0 to 9, got -1 at row 2"),
        (pickle_batch(ROWS, [0, b"cat", 1]), "labels 0 to 9, got b'cat' at row 1"),
        (pickle_batch(ROWS, [0, 1]), "expected 3 labels, got 2"),
        (pickle_batch(ROWS[:, :3000], [0] * 3), r"uint8 \[N, 3072\], got uint8 \[3, 3000\]"),
        (pickle.dumps({"data": ROWS / 2, "labels": [0] * 3}), "got float64"),
    ],
)
def test_damaged_batches_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_batch(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_every_cut_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = pickle_batch(ROWS[:1], [0])
    path = tmp_path / "data_batch_1"
    for end in [*range(0, 300), *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:end])
        with pytest.raises(DatasetError):
            read_batch(path)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(DatasetError, match=r"data_batch_4: .* got no file; give the folder"):
        load_dataset("cifar10", tmp_path)


def test_images_are_never_widened(tmp_path: Path) -> None:
    """At full size: 180 MB of images, of which no more than four copies exist at once."""
    write_cifar(tmp_path, rows=500)
    tracemalloc.start()
    try:
        load_dataset("cifar10", tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 3000 * 3072


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_downloaded_with_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_cifar(tmp_path / "source")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in CIFAR_BATCHES:
            tar.add(source / name, f"cifar-10-batches-py/{name}")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive.getvalue())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(cifar, "_URL", url)
        with pytest.raises(DatasetError, match=f"^cifar10: expected a file at {url}, got .*MD5"):
            load_dataset("cifar10")
        monkeypatch.setattr(cifar, "_MD5", hashlib.md5(archive.getvalue()).hexdigest())
        assert len(load_dataset("cifar10").test) == 40
    finally:
        server.shutdown()
        server.server_close()
    assert len(load_dataset("cifar10").test) == 40, "the second time it comes from the cache"
