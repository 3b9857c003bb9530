"""Compare a new version with the one that serves, before it takes its place.

Both answer the same labelled images, each through its own geometry. Legend: N rows, H height,
W width, C channels, K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.figures import right_rows
from export.pictures import class_indices
from export.proof import Answers
from models.artifact import ArtifactError, ImageSpec, ModelArtifact
from models.repository import ModelRepository

# Accuracy that a new version may lose against the serving one, as a share: on 1,000 images about
# the standard error of the difference. A product choice; --max-drop-from-serving changes it.
MAX_DROP = 0.01
_FORCE = "not published: --force publishes it nevertheless"


@dataclass(frozen=True, slots=True)
class Measured:
    """A new version's accuracy, and the images that it was measured on.

    Attributes:
        accuracy: Share of right labels, 0-1.
        targets_N: Index of each image's true label, int64 [N].
        images: Returns the images as a version decodes them, uint8 [n, H, W, C], N in all.
        run: Answers images by a graph of the contract, given its file.
    """

    accuracy: float
    targets_N: NDArray[np.int64]
    images: Callable[[ImageSpec], Iterable[NDArray[np.uint8]]]
    run: Callable[[Path, NDArray[np.uint8]], Answers]


def check_serving(
    repository: ModelRepository,
    name: str,
    labels: tuple[str, ...],
    measured: Measured | None,
    max_drop: float = MAX_DROP,
) -> None:
    """Refuse a version that is worse than the one that serves, or that cannot be compared with it.

    Args:
        repository: Where it would be published.
        name: Name of the model.
        labels: The new version's labels.
        measured: Its accuracy; None: it was not measured on labelled images.
        max_drop: Accuracy that it may lose, as a share.

    Raises:
        ExportError: It is worse by more, or the serving version has metrics and the new one none,
            other labels, or does not run.
    """
    if not repository.versions(name):
        return
    serving = repository.load(*repository.resolve(name))
    if measured is None or set(class_indices(labels)) != set(class_indices(serving.labels)):
        if serving.metrics is not None:
            what = "the same labels" if measured else "labelled images to compare with it on"
            raise ExportError(
                f"{serving.reference} serves with an accuracy of {serving.metrics.accuracy:.2%} on "
                f"{serving.metrics.images} {serving.metrics.split} images: expected {what}, got "
                f"{'others' if measured else 'none'}; {_FORCE}"
            )
        return
    try:
        before = _accuracy(repository, serving, labels, measured)
    except ArtifactError as error:
        raise ExportError(
            f"{serving.reference} serves and cannot be compared: {error}; {_FORCE}"
        ) from None
    if before - measured.accuracy > max_drop:
        raise ExportError(
            f"{serving.reference} serves and is right on {before:.2%} of the same "
            f"{len(measured.targets_N)} images: expected at most {max_drop * 100:.2f} points less, "
            f"got {measured.accuracy:.2%}; {_FORCE}, --max-drop-from-serving allows more"
        )


def _accuracy(
    repository: ModelRepository,
    serving: ModelArtifact,
    labels: tuple[str, ...],
    measured: Measured,
) -> float:
    file = repository.check_model(serving, serving.fp32.path)
    answered_NK = np.concatenate(
        [measured.run(file, images_NHWC)[1] for images_NHWC in measured.images(serving.image)]
    )
    indices = class_indices(serving.labels)
    # Where each of the new version's labels stands in the serving one's.
    places_K = np.array([indices[label] for label in class_indices(labels)])
    targets_N = places_K[measured.targets_N]
    return float(right_rows(answered_NK, targets_N, serving.thresholds).mean())
