"""A model in this process, without a server: what the batch scorer and ``foveal predict`` run.

It has the files, checks, decoder and session of the service's classifier, but no queue and no event
loop. It does not know where images come from.

Layout legend: N rows, K classes, T predictions a row.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from models.abstain import is_answered
from models.artifact import ArtifactError, ModelArtifact, ModelFile
from models.image import MAX_PIXELS, ImageError, Pixels, decode
from models.labels import distinct_names
from models.machine import available_cpus
from models.repository import ModelRepository
from scoring.predictions import Prediction, Response, Result
from service.errors import ServiceError
from service.pipeline.card_lane import Card
from service.pipeline.postprocess import choose_labels, not_finite, rank, shortest_decimals
from service.session.devices import select_device
from service.session.formats import Choice
from service.session.gpu.open_card import Decoding, photographs_of
from service.session.planning import (
    DeviceOptions,
    OtherProcessorError,
    PlanChoices,
    open_all,
    open_best,
)
from service.session.plans import Asked
from service.session.session import Session

# Largest batch of one run: the service's default.
BATCH_SIZE = 64


class LocalModel:
    """One version of a model, verified, loaded and self-tested. Build it with ``load``.

    Attributes:
        card: What decodes JPEGs for it on a GPU; None: the CPU decodes all images.
    """

    def __init__(
        self,
        artifact: ModelArtifact,
        session: Session,
        file: ModelFile,
        card: Card | None = None,
    ) -> None:
        self.artifact = artifact
        self.file = file
        self.card = card
        self._session = session

    @classmethod
    def load(
        cls,
        repository: ModelRepository,
        reference: str | None = None,
        threads: int = 0,
        precision: Choice = "fp32",
        device: Asked = "cpu",
        decoding: Decoding = "auto",
    ) -> "LocalModel":
        """Load a version: checksums, graph, session, golden images.

        Args:
            repository: Holds the models.
            reference: ``name``, ``name:version``, or None for the repository's default.
            threads: onnxruntime's intra-op threads; 0 is one for each core.
            precision: Which file runs; ``auto`` chooses as the service does.
            device: Where it runs; ``auto`` is a GPU if one works, else the CPU.
            decoding: Where usual JPEGs are decoded; the service's setting.

        Raises:
            ArtifactError: No such model or precision, its files break the contract, or a golden
                image gets another result.
            InferenceError: onnxruntime cannot load the model, or the device does not work.
        """
        artifact = repository.verify(*repository.resolve(reference))
        selected = select_device(device)
        options = DeviceOptions(selected, tf32="auto")
        choices = PlanChoices(precision, (threads or available_cpus(),), BATCH_SIZE, options)
        session = open_best(repository, artifact, choices)
        file = artifact.file(session.plan.precision)
        assert file is not None, "the session was opened from one of the files; this is a bug"
        photographs = photographs_of(selected, decoding)
        return cls(artifact, session, file, photographs.of(artifact.image) if photographs else None)

    @property
    def computed_in(self) -> str:
        """Return what its answers depend on besides the file: a table is resumed with the same."""
        plan = self._session.plan
        return plan.precision if plan.device == "cpu" else f"{plan.format} on {plan.device}"

    def decode(
        self,
        encoded: bytes,
        on_damage: Callable[[str], None] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Pixels:
        """Decode one image to a row of this model; may be called from any thread.

        Args:
            encoded: One file.
            on_damage: Called with the decoder's words on damage that it goes on after.
            max_pixels: Most pixels that are decoded.

        Returns:
            uint8 [H, W, C], 0-255.

        Raises:
            ImageError: Not an image, truncated, corrupt, or too many pixels.
        """
        return decode(encoded, self.artifact.image, max_pixels, on_damage)

    def run(self, rows: Sequence[Pixels]) -> NDArray[np.float32]:
        """Classify one batch on the calling thread.

        Args:
            rows: uint8 [H, W, C] each, at least one.

        Returns:
            probabilities_NK: float32 [N, K].

        Raises:
            InferenceError: onnxruntime failed.
        """
        return self.run_batch(np.stack(rows))

    def run_batch(self, images_NHWC: Pixels) -> NDArray[np.float32]:
        """Classify one batch on the calling thread; several threads may do so at once.

        Args:
            images_NHWC: uint8 [N, H, W, C], N >= 1, contiguous.

        Returns:
            probabilities_NK: float32 [N, K].

        Raises:
            InferenceError: onnxruntime failed.
        """
        return self._session.run(images_NHWC).probabilities

    def predict(self, images: Sequence[bytes], top: int) -> Response:
        """Classify encoded images; a bad one gets its own error.

        Args:
            images: One encoded image each; all are held in memory.
            top: Labels for each image, 1 or more.
        """
        rows: list[Pixels] = []
        results: list[Result] = []
        for encoded in images:
            try:
                rows.append(self.decode(encoded))
                results.append({})
            except ImageError as error:
                results.append({"error": str(error)})
        answers = self._answers(rows, top)
        for result in results:
            if "error" not in result:
                result.update(next(answers))
        artifact = self.artifact
        return {"model": artifact.name, "version": artifact.version, "results": results}

    def _answers(self, rows: Sequence[Pixels], top: int) -> Iterator[Result]:
        """Yield the predictions of each row, or its error."""
        labels = self.artifact.labels
        for start in range(0, len(rows), BATCH_SIZE):
            probabilities_NK = self.run(rows[start : start + BATCH_SIZE])
            order_NT = rank(probabilities_NK, top)
            values_NT = np.take_along_axis(probabilities_NK, order_NT, axis=1)
            # As the service writes them: parsed, 0.1 stays 0.1 instead of 0.10000000149011612.
            decimals = iter(map(orjson.loads, shortest_decimals(values_NT)))
            wrong = not_finite(probabilities_NK)
            verdicts = self._verdicts(probabilities_NK)
            for row, (indexes, verdict) in enumerate(zip(order_NT.tolist(), verdicts, strict=True)):
                ranked: list[Prediction] = [
                    {"label": labels[index], "index": index, "probability": next(decimals)}
                    for index in indexes
                ]
                if row in wrong:
                    yield {"error": wrong[row]}
                else:
                    yield {"predictions": ranked, **verdict}

    def _verdicts(self, probabilities_NK: NDArray[np.float32]) -> list[Result]:
        """Return what each row's result says beside its predictions, as the service does."""
        artifact = self.artifact
        threshold = artifact.abstain.threshold if artifact.abstain else None
        verdicts: list[Result] = [{} for _ in probabilities_NK]
        if artifact.thresholds:
            chosen = choose_labels(probabilities_NK, artifact.thresholds, threshold)
            names = distinct_names(artifact.labels)
            verdicts = [{"labels": [names[index] for index in indexes]} for indexes in chosen]
        if threshold is not None:
            answered_N = is_answered(probabilities_NK.max(axis=1), threshold).tolist()
            best_N = probabilities_NK.argmax(axis=1).tolist()
            for verdict, best, is_sure in zip(verdicts, best_N, answered_N, strict=True):
                if not artifact.thresholds:
                    verdict["label"] = artifact.labels[best] if is_sure else None
                verdict["abstained"] = not is_sure
        return verdicts


def verify(repository: ModelRepository, reference: str | None = None) -> dict[str, str]:
    """Check versions by loading each of their files: checksums, graphs, golden images.

    Args:
        repository: Holds the models.
        reference: ``name:version``, ``name`` for all its versions, None for all models.

    Returns:
        ``name:version`` to "ok" or to the error; "ok in fp32" and why, if this processor computes
        int8 otherwise, so that the service answers in fp32.

    Raises:
        ArtifactError: There is no such model or version.
    """
    if reference is not None:
        repository.resolve(reference)
    model, _, number = (reference or "").partition(":")
    wanted = [
        f"{name}:{version}"
        for name in ([model] if model else repository.names())
        for version in ([number] if number else repository.versions(name))
    ]
    verdicts = {}
    for each in wanted:
        try:
            artifact = repository.verify(*repository.resolve(each))
            for _ in open_all(repository, artifact):
                pass
            verdicts[each] = "ok"
        except OtherProcessorError as error:
            verdicts[each] = f"ok in fp32; {str(error).removeprefix(f'{each}: ')}"
        except (ArtifactError, ServiceError) as error:
            verdicts[each] = str(error).removeprefix(f"{each}: ")
    return verdicts
