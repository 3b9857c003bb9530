import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from training.datasets import mnist
from training.datasets.idx import read_idx, read_pair
from training.datasets.mnist import read_fashion_mnist
from training.datasets.sources import SOURCES, load_dataset
from training.datasets.splits import (
    Source,
    Split,
    balancing_weights,
    checksum,
    describe_imbalance,
    hold_out,
    pixel_statistics,
)
from training.errors import ConfigError, DatasetError

pytestmark = pytest.mark.training


def write_idx(path: Path, values: np.ndarray) -> Path:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fashion-MNIST in the official format, with ten images of each class in each part."""
    generator = np.random.default_rng(1)
    for part, suffix in (("train", ".gz"), ("t10k", "")):
        write_idx(
            tmp_path / f"{part}-images-idx3-ubyte{suffix}",
            generator.integers(0, 256, (100, 28, 28)),
        )
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", np.arange(100) % 10)
    return tmp_path


def test_digits_are_bytes_in_three_disjoint_stratified_parts() -> None:
    dataset = load_dataset("digits")
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.mode == "L"
    assert dataset.labels == tuple("0123456789")
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 1797
    assert dataset.train.images_NHWC.dtype == np.uint8
    assert dataset.train.images_NHWC.max() == 255
    for part in (dataset.train, dataset.validation, dataset.test):
        shares = np.bincount(part.targets_N) / len(part)
        assert np.abs(shares - 0.1).max() < 0.02


def test_the_test_part_does_not_depend_on_the_split_seed() -> None:
    first, second = load_dataset("digits", split_seed=1), load_dataset("digits", split_seed=2)
    assert np.array_equal(first.test.images_NHWC, second.test.images_NHWC)
    assert not np.array_equal(first.validation.images_NHWC, second.validation.images_NHWC)
    assert first.sha256 == second.sha256


def test_hold_out_is_seeded_and_disjoint() -> None:
    rows = np.arange(100)
    split = Split(rows.astype(np.uint8).reshape(100, 1, 1, 1), rows % 4)
    rest, held = hold_out(split, 0.2, seed=3)
    again, _ = hold_out(split, 0.2, seed=3)
    parts = [set(part.images_NHWC.ravel().tolist()) for part in (rest, held)]
    assert parts[0] | parts[1] == set(range(100))
    assert not parts[0] & parts[1]
    assert len(held) == 20
    assert np.array_equal(rest.images_NHWC, again.images_NHWC)
    assert np.array_equal(rest.targets_N, rest.images_NHWC.ravel() % 4)


def test_unknown_names_and_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected one of cifar10, digits, .*got 'cifar'"):
        load_dataset("cifar")
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        load_dataset("digits", validation=1)
    with pytest.raises(DatasetError, match=r"an image of each class to fit, .* lower --validation"):
        load_dataset("digits", validation=0.9999)
    with pytest.raises(DatasetError, match="embedded"):
        load_dataset("digits", Path("somewhere"))


def test_checksum_sees_every_value() -> None:
    split = Split(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1]))
    source = Source(("a", "b"), split, split)
    changed = Split(split.images_NHWC.copy(), split.targets_N)
    changed.images_NHWC[3, 1, 1, 0] = 1
    assert checksum(source) == checksum(Source(("a", "b"), split, split))
    assert checksum(source) != checksum(Source(("a", "b"), split, changed))
    assert checksum(source) != checksum(Source(("a", "c"), split, split))


def test_classes_are_unbalanced_if_one_has_more_than_twice_another() -> None:
    labels = ("cat", "dog")
    assert describe_imbalance(labels, np.array([0, 0, 1])) == ""
    assert describe_imbalance(labels, np.array([0, 0, 0, 1])) == (
        "'cat' has 3 training images, 'dog' 1"
    )
    assert balancing_weights(np.array([0, 0, 0, 1]), 2).tolist() == [4 / 6, 2.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_those_of_numpy(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, channels), dtype=np.uint8)
    images[..., 0] //= 3
    mean_C, std_C = pixel_statistics(Split(images, np.zeros(5000, np.int64)))
    assert mean_C == pytest.approx(images.mean(axis=(0, 1, 2)))
    assert std_C == pytest.approx(images.std(axis=(0, 1, 2)))


def test_pixel_statistics_never_give_a_zero_to_divide_by() -> None:
    constant = Split(np.full((3, 2, 2, 1), 9, np.uint8), np.zeros(3, np.int64))
    assert pixel_statistics(constant)[1].tolist() == [1.0]


def test_fashion_mnist_reads_the_official_format(folder: Path) -> None:
    dataset = load_dataset("fashion-mnist", folder)
    assert dataset.labels[9] == "Ankle boot"
    assert dataset.image_shape == (28, 28, 1)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 100)


def test_debian_fashion_mnist_is_the_real_thing() -> None:
    if not mnist.DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("apt install dataset-fashion-mnist")
    source = read_fashion_mnist(None)
    assert source.train.images_NHWC.shape == (60_000, 28, 28, 1)
    assert np.bincount(source.test.targets_N).tolist() == [1000] * 10
    # Mean of the training images / 255, stated by everyone who uses this dataset.
    assert source.train.images_NHWC.mean() / 255 == pytest.approx(0.2860, abs=1e-4)


def test_debians_folder_is_found_without_asking(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "DEBIAN_FASHION_MNIST", folder)
    assert len(SOURCES["fashion-mnist"](None).train) == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n", "got 89 50 4e 47"),
        (b"\0\0\x0d\x01" + bytes(8), "got 00 00 0d 01"),
        (b"\0\0\x08\x03" + bytes(4), "header of 16 bytes, got 8"),
        (b"\0\0\x08\x01" + struct.pack(">I", 5) + b"abc", r"5 values for shape \[5\], got 3"),
        (b"\0\0\x08\x01" + struct.pack(">I", 2) + b"abc", r"2 values for shape \[2\], got 3"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_gzip_files_are_named(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=f"^{path}: expected a readable idx file"):
        load_dataset("fashion-mnist", folder)
    path.write_bytes(b"not gzip")
    with pytest.raises(DatasetError, match=f"^{path}: expected a readable idx file"):
        load_dataset("fashion-mnist", folder)


def test_parts_that_do_not_belong_together_are_named(folder: Path) -> None:
    labels = folder / "t10k-labels-idx1-ubyte"
    write_idx(labels, np.arange(99) % 10)
    with pytest.raises(DatasetError, match="expected 100 labels, one per image, got 99"):
        read_pair(folder, "t10k", 10)
    write_idx(labels, np.arange(100) % 11)
    with pytest.raises(DatasetError, match="expected labels 0 to 9, got 10 at row 10"):
        read_pair(folder, "t10k", 10)
    labels.unlink()
    with pytest.raises(DatasetError, match="expected a file t10k-labels-idx1-ubyte"):
        read_pair(folder, "t10k", 10)


def test_a_class_without_images_is_named(folder: Path) -> None:
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(100) % 9)
    with pytest.raises(DatasetError, match=r"at least 2 training images of each class.*Ankle boot"):
        load_dataset("fashion-mnist", folder)
