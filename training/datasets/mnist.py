"""The datasets ``mnist`` and ``fashion-mnist``: 60,000 and 10,000 grey images of 28x28 pixels.

Each is four idx files, images and labels of the parts ``train`` and ``t10k``.
"""

from pathlib import Path

from training.datasets.download import download
from training.datasets.idx import read_pair
from training.datasets.splits import Source

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_FASHION_MNIST_URL = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
)
# Published in the README of zalandoresearch/fashion-mnist. Debian recompressed the files, so its
# copies have other checksums and the same content.
_FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
# LeCun's own server asks for a password now; this copy and its checksums are torchvision's.
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST_LABELS = tuple(str(digit) for digit in range(10))
_FASHION_MNIST_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_fashion_mnist(data_dir: Path | None) -> Source:
    """Read Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels.

    Args:
        data_dir: Folder of the four idx files; None takes Debian's folder if it exists, else
            downloads the files.

    Raises:
        DatasetError: A file is missing, damaged or of another dataset.
    """
    folder = data_dir or (
        DEBIAN_FASHION_MNIST
        if DEBIAN_FASHION_MNIST.is_dir()
        else _download("fashion-mnist", _FASHION_MNIST_URL, _FASHION_MNIST_MD5)
    )
    return _read_parts(folder, _FASHION_MNIST_LABELS)


def read_mnist(data_dir: Path | None) -> Source:
    """Read MNIST: 60,000 and 10,000 grey images of 28x28 pixels.

    Args:
        data_dir: Folder of the four idx files; None downloads them.

    Raises:
        DatasetError: A file is missing, damaged or of another dataset.
    """
    return _read_parts(data_dir or _download("mnist", _MNIST_URL, _MNIST_MD5), _MNIST_LABELS)


def _read_parts(folder: Path, labels: tuple[str, ...]) -> Source:
    train, test = (read_pair(folder, part, len(labels)) for part in ("train", "t10k"))
    return Source(labels, train, test)


def _download(name: str, url: str, md5: dict[str, str]) -> Path:
    return download(name, {url + file: checksum for file, checksum in md5.items()})
