"""Types for reading the JSON of ``/predict``, from a local model or a service.

Probabilities are the shortest decimals that read back as the model's float32, whether the model
runs in this process (``local``) or behind a service (``remote``).
"""

from collections import Counter
from collections.abc import Container, Sequence
from typing import NotRequired, Protocol, TypedDict

from scoring.files import FileRow
from scoring.rows import ScoreError


class Prediction(TypedDict):
    """One label of one image: its text, its index in the artifact's labels, probability 0-1."""

    label: str
    index: int
    probability: float


class Result(TypedDict):
    """One image: its labels, most probable first, or the error instead of them.

    ``image`` is the file's name; the service does not know it. ``label`` and ``abstained`` are
    present if the model may abstain; ``label`` is None if it did. A multi-label model's result has
    ``labels`` instead of ``label``: those at or above their thresholds, most probable first.
    """

    image: NotRequired[str]
    predictions: NotRequired[list[Prediction]]
    label: NotRequired[str | None]
    labels: NotRequired[list[str]]
    abstained: NotRequired[bool]
    error: NotRequired[str]


class Response(TypedDict):
    """One result for each image, in the order of the request, and the model that made them.

    If every image has an error, ``model`` and ``version`` are the requested ones, "" and 0 if the
    request named none.
    """

    model: str
    version: int
    results: list[Result]


class Predictor(Protocol):
    """A model of this process, or one behind a service."""

    def predict(self, images: Sequence[bytes], top: int) -> Response:
        """Classify encoded images; a bad one gets its own error."""


def predict_files(predictor: Predictor, paths: Sequence[str], top: int) -> Response:
    """Classify files; one that cannot be read gets its own error, as a bad image does.

    Args:
        predictor: The model.
        paths: One image each.
        top: Labels for each image, 1 or more.
    """
    results: list[Result] = []
    good: list[bytes] = []
    for row in map(FileRow, paths):
        try:
            good.append(row.read())
            results.append({"image": row.id})
        except ScoreError as error:
            results.append({"image": row.id, "error": str(error)})
    response = predictor.predict(good, top)
    predicted = iter(response["results"])
    for result in results:
        if "error" not in result:
            result.update(next(predicted))
    return {**response, "results": results}


def tabulate(response: Response, equal: Container[str] = ()) -> list[tuple[str, str, str]]:
    """Return a table's heading and rows: a row for each label, the image in its first one.

    An image on which the model abstains has a row for that before its labels, an image of a
    multi-label model one for the labels that it gets.

    Args:
        response: What to show.
        equal: Labels that the model has twice or more; those that the response itself has with
            several indexes are known. They are told apart by their index: ``crane (517)``.
    """
    lines = [("image", "label", "probability")]
    several = _with_several_indexes(response)
    for result in response["results"]:
        labels = [
            (
                f"{r['label']} ({r['index']})"
                if r["label"] in equal or r["label"] in several
                else r["label"],
                f"{r['probability']:.4f}",
            )
            for r in result.get("predictions", ())
        ]
        if result.get("abstained"):
            labels.insert(0, ("(abstains)", ""))
        elif "labels" in result:
            labels.insert(0, (f"= {', '.join(result['labels']) or '(no label)'}", ""))
        lines += [("" if place else result["image"], *cells) for place, cells in enumerate(labels)]
    return lines


def _with_several_indexes(response: Response) -> set[str]:
    """Return the labels that a response has with more than one index."""
    pairs = {
        (prediction["label"], prediction["index"])
        for result in response["results"]
        for prediction in result.get("predictions", ())
    }
    count = Counter(label for label, _ in pairs)
    return {label for label in count if count[label] > 1}
