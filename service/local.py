"""A model in this process, without a server: what the batch scorer and ``foveal predict`` run.

The same files, checks, decoder and session as the service's classifier, no queue and no event loop.
Knows nothing about where images come from.

Layout legend: N rows, K classes, T predictions a row.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from models.artifact import ArtifactError, ModelArtifact, ModelFile, Precision
from models.image import ImageError, Pixels, decode
from models.repository import ModelRepository
from service.answer import Answer, Ranked, Result
from service.errors import ServiceError
from service.pipeline.classifier import self_test
from service.pipeline.postprocess import rank
from service.pipeline.session import Plan, Session, available_cpus

# Rows a run gets at most: as in the service's default.
BATCH_SIZE = 64


class LocalModel:
    """One version of a model, verified, loaded and self-tested. Build it with ``load``."""

    def __init__(self, artifact: ModelArtifact, session: Session, file: ModelFile) -> None:
        self.artifact = artifact
        self.file = file
        self._session = session

    @classmethod
    def load(
        cls,
        repository: ModelRepository,
        reference: str | None = None,
        threads: int = 0,
        precision: Precision = "fp32",
    ) -> "LocalModel":
        """Load a version: checksums, graph, session, golden images.

        Args:
            repository: Where the models lie.
            reference: ``name``, ``name:version``, or None for the repository's default.
            threads: onnxruntime's intra-op threads; 0: as many as there are cores.
            precision: Which of its files. The golden images' answers are fp32's; they are replayed
                in that precision alone.

        Raises:
            ArtifactError: No such model or precision, its files break the contract, or a golden
                image gets another answer.
            InferenceError: onnxruntime refuses the model.
        """
        artifact = repository.verify(*repository.resolve(reference))
        file = artifact.file(precision)
        if file is None:
            there = ", ".join(each.precision for each in artifact.files)
            raise ArtifactError(f"{artifact.reference}: expected {there}, got {precision}")
        content = repository.read_model(artifact, file.path)
        plan = Plan(threads=threads or available_cpus(), precision=precision)
        session = Session(content, plan)
        if precision == "fp32":
            self_test(repository, artifact, session)
        return cls(artifact, session, file)

    def decode(self, encoded: bytes) -> Pixels:
        """Decode one image to a row of this model; may be called from any thread.

        Returns:
            uint8 [H, W, C], 0-255.

        Raises:
            ImageError: No image, a truncated or corrupt one, or one of too many pixels.
        """
        return decode(encoded, self.artifact.image)

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

    def predict(self, images: Sequence[bytes], top: int) -> Answer:
        """Classify encoded images; a bad one gets its own error.

        Args:
            images: One encoded image each; all are held in memory.
            top: How many labels an image, 1 or more.
        """
        rows: list[Pixels] = []
        results: list[Result] = []
        for encoded in images:
            try:
                rows.append(self.decode(encoded))
                results.append({})
            except ImageError as error:
                results.append({"error": str(error)})
        ranked = self._rank(rows, top)
        for result in results:
            if "error" not in result:
                result["predictions"] = next(ranked)
        artifact = self.artifact
        return {"model": artifact.name, "version": artifact.version, "results": results}

    def _rank(self, rows: Sequence[Pixels], top: int) -> Iterator[list[Ranked]]:
        labels = self.artifact.labels
        for start in range(0, len(rows), BATCH_SIZE):
            probabilities_NK = self.run(rows[start : start + BATCH_SIZE])
            order_NT = rank(probabilities_NK, top)
            values_NT = np.take_along_axis(probabilities_NK, order_NT, axis=1)
            text = orjson.dumps(np.ascontiguousarray(values_NT), option=orjson.OPT_SERIALIZE_NUMPY)
            for indexes, values in zip(order_NT.tolist(), orjson.loads(text), strict=True):
                yield [
                    {"label": labels[index], "index": index, "probability": value}
                    for index, value in zip(indexes, values, strict=True)
                ]


def verify(repository: ModelRepository, reference: str | None = None) -> dict[str, str]:
    """Load versions and throw them away again: checksums, graphs, golden images.

    Args:
        repository: Where the models lie.
        reference: ``name:version``, ``name`` for all its versions, None for all models.

    Returns:
        ``name:version`` to "ok" or to what is wrong.

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
            LocalModel.load(repository, each)
            verdicts[each] = "ok"
        except (ArtifactError, ServiceError) as error:
            verdicts[each] = str(error)
    return verdicts
