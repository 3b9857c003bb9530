"""Probabilities of every row by a published model. Legend: N rows, K classes of the dataset."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from export.run import open_session, run_images
from models.geometry import Pixels
from models.image import ImageError, decode, encode_png
from models.repository import ModelRepository
from training.datasets.listing import Content, Listing
from training.errors import ConfigError, DatasetError
from training.quality.scan import Report

# Rows that are decoded and run at once.
_ROWS = 256


class ModelJudge:
    """What a model of the repository answers for the rows of a dataset.

    Args:
        repository: Holds the model.
        reference: ``name`` or ``name:version``.
        listing: The dataset; all its labels must be labels of the model.
        rows: int64 [N], the rows to answer, in rising order; all can be decoded.
        on_progress: Called with the rows that are done, and N.

    Attributes:
        probabilities_NK: float32 [N, K], in the order of the dataset's labels; of a model with more
            labels, shares of the sum of these.

    Raises:
        ArtifactError: There is no such model, or its files break the contract.
        ConfigError: The model lacks a label of the dataset, or gives an image several labels.
        DatasetError: An image is too large for the model.
    """

    def __init__(
        self,
        repository: ModelRepository,
        reference: str,
        listing: Listing,
        rows: NDArray[np.int64],
        on_progress: Report = lambda *_: None,
    ):
        artifact = repository.verify(*repository.resolve(reference))
        missing = [label for label in listing.labels if label not in artifact.labels]
        if missing or artifact.task == "multi-label":
            has = f"labels without {', '.join(missing[:5])}" if missing else "a multi-label model"
            raise ConfigError(
                f"{artifact.reference}: expected one label an image and the labels of "
                f"{listing.name}, got {has}; leave out --model"
            )
        self._places_K = [
            [at for at, label in enumerate(artifact.labels) if label == wanted]
            for wanted in listing.labels
        ]
        self._image, self._listing, self._rows = artifact.image, listing, rows
        self._session = open_session(repository.read_model(artifact, artifact.fp32.path))
        parts = []
        for images_NHWC in self._decoded(rows):
            parts.append(self._run(images_NHWC))
            on_progress(sum(map(len, parts)), len(rows))
        self.probabilities_NK = np.concatenate(parts)

    def answer_turned(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Classify pictures turned to the left by 90 and 270 degrees.

        Args:
            rows: int64 [n], positions in ``probabilities_NK``, in rising order.

        Returns:
            float32 [n, 2, K], probabilities; NaN where the model takes no squares.
        """
        parts = []
        for images_NHWC in self._decoded(self._rows[rows]):
            turned = np.full((len(images_NHWC), 2, len(self._places_K)), np.nan, np.float32)
            if images_NHWC.shape[1] == images_NHWC.shape[2]:
                for turn, quarters in enumerate((1, 3)):
                    pictures = np.rot90(images_NHWC, quarters, axes=(1, 2)).copy()
                    turned[:, turn] = self._run(pictures)
            parts.append(turned)
        return np.concatenate(parts)

    def _run(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        _, probabilities = run_images(self._session, images_NHWC)
        own_NK = np.stack([probabilities[:, at].sum(axis=1) for at in self._places_K], axis=1)
        shares_NK: NDArray[np.float32] = own_NK / own_NK.sum(axis=1, keepdims=True).clip(1e-12)
        return shares_NK

    def _decoded(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield rows as the model takes them, uint8 [n, H, W, C]."""
        waiting: list[Pixels] = []
        for row, content in self._listing.read(set(rows.tolist())):
            try:
                waiting.append(self._decode(content))
            except ImageError as error:
                raise DatasetError(f"{self._listing.rows[row]}: {error}") from error
            if len(waiting) == _ROWS:
                yield np.stack(waiting)
                waiting = []
        if waiting:
            yield np.stack(waiting)

    def _decode(self, content: Content) -> Pixels:
        if isinstance(content, ImageError):
            raise content
        if isinstance(content, bytes):
            return decode(content, self._image)
        if content.shape == self._image.shape_HWC:
            return content
        return decode(encode_png(content), self._image)
