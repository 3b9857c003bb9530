"""The JSON that ``/predict`` answers, as types, and how files are put to whoever answers.

Probabilities are the shortest decimals that read back as the model's float32, whoever answers.
"""

from collections.abc import Sequence
from typing import NotRequired, Protocol, TypedDict

from scoring.files import FileRow
from scoring.rows import ScoreError


class Ranked(TypedDict):
    """One label of one image: its text, its index in the artifact's labels, probability 0-1."""

    label: str
    index: int
    probability: float


class Result(TypedDict):
    """One image: its labels, most probable first, or why there are none.

    ``image`` is the file's name where one was asked about; the service does not know it. ``label``
    and ``abstained`` are there where the model may abstain; it did where the label is None.
    """

    image: NotRequired[str]
    predictions: NotRequired[list[Ranked]]
    label: NotRequired[str | None]
    abstained: NotRequired[bool]
    error: NotRequired[str]


class Answer(TypedDict):
    """One result an image, in the order asked, and who answered.

    ``model`` and ``version`` are what was asked for, "" and 0 if left open, while no image was
    good enough to be answered.
    """

    model: str
    version: int
    results: list[Result]


class Answerer(Protocol):
    """Whoever answers: a model of this process, or one behind a service."""

    def predict(self, images: Sequence[bytes], top: int) -> Answer:
        """Classify encoded images; a bad one gets its own error."""


def predict_files(answerer: Answerer, paths: Sequence[str], top: int) -> Answer:
    """Classify files; one that cannot be read gets its own error, as a bad image does.

    Args:
        answerer: Whom to ask.
        paths: One image each.
        top: How many labels an image, 1 or more.
    """
    results: list[Result] = []
    good: list[bytes] = []
    for row in map(FileRow, paths):
        try:
            good.append(row.read())
            results.append({"image": row.id})
        except ScoreError as error:
            results.append({"image": row.id, "error": str(error)})
    answer = answerer.predict(good, top)
    answers = iter(answer["results"])
    for result in results:
        if "error" not in result:
            result.update(next(answers))
    return {**answer, "results": results}


def tabulate(answer: Answer) -> list[tuple[str, str, str]]:
    """Return the heading and the cells of a table: a line a label, the image in its first one.

    A model that abstains says so in a line of its own, before the labels that it was unsure of.
    """
    lines = [("image", "label", "probability")]
    for result in answer["results"]:
        labels = [(r["label"], f"{r['probability']:.4f}") for r in result.get("predictions", ())]
        if result.get("abstained"):
            labels.insert(0, ("(abstains)", ""))
        lines += [("" if place else result["image"], *cells) for place, cells in enumerate(labels)]
    return lines
