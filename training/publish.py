"""Hand a fitted network to ``export``: its graph, its answers, and what the run recorded.

Gathers what only training knows (splits, scores, provenance); ``export`` proves, converts and
publishes. Legend: N rows, H height, W width, C channels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.abstain import check_share, choose_abstain
from export.draft import Draft, LowerGraph
from export.errors import ParityError
from export.figures import confusion, evaluate, softmax
from export.golden import choose_golden, draft_golden, encode_golden
from export.precision import MAX_ACCURACY_DROP, check_gate, convert
from export.proof import Run as RunBatch
from export.proof import compare, run_batches
from export.publish import check_contract
from export.publish import publish as publish_draft
from export.run import measure_gate, open_session, run_images, run_output
from export.serving import MAX_DROP, Measured, check_serving
from models.artifact import ImageSpec, ModelArtifact, Precision
from models.evidence import Abstain, Metrics, Parity, Provenance
from models.image import decode, encode_png
from models.repository import ModelRepository, check_name
from training.datasets.encoded import image_spec
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.evaluate import describe_training
from training.graph import ServedNetwork, export_onnx
from training.pretrained import own_image
from training.runs import Outcome, Run

# Batch sizes of the proof: one row alone, the smallest batch, an odd one that fills no vector
# register, and a full one.
BATCH_SIZES = (1, 2, 7, 64)
# Images of the proof: every class many times; at batch size 1 they take about a second.
MAX_IMAGES = 1024
# Largest difference between two probabilities. Float32 sums in another order differ by about 1e-6
# here; a wrong constant differs by far more.
TOLERANCE = 1e-5
# Of an embedding, relative to its largest value.
EMBEDDING_TOLERANCE = 1e-4
# Rows that are decoded at once for a serving version of another size.
_ROWS = 256


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to publish beside the fp32 file.

    Attributes:
        precisions: Files of lower precision to write.
        max_accuracy_drop: Accuracy that each of them may lose, as a share.
        abstain_precision: Wanted share of right labels among the answers; the model abstains from
            the rest. None: it always answers.
        max_drop: Accuracy that it may lose against the serving version, as a share; None: any.
    """

    precisions: Sequence[Precision] = ()
    max_accuracy_drop: float = MAX_ACCURACY_DROP
    abstain_precision: float | None = None
    max_drop: float | None = MAX_DROP


PLAIN = Wishes()


def publish(  # noqa: PLR0913 - all that a version is made of
    repository: ModelRepository,
    name: str,
    network: ServedNetwork,
    dataset: Dataset,
    run: Run,
    outcome: Outcome,
    *,
    wishes: Wishes = PLAIN,
) -> ModelArtifact:
    """Export, prove and publish a fitted network as the next version of a model.

    Args:
        repository: Where to publish.
        name: Name of the model.
        network: What the run fitted, with its temperature.
        dataset: What it was fitted on; proof and golden images come from the test split.
        run: Where it came from.
        outcome: What it scored.
        wishes: What to publish beside the fp32 file.

    Returns:
        The published artifact.

    Raises:
        ExportError: The graph breaks the contract, has nothing to convert, no threshold is as
            precise as asked, or the serving version is better or cannot be compared.
        ParityError: onnxruntime does not answer as torch does.
        GateError: A file of lower precision loses too much.
        ArtifactError: The repository refuses the name or the files.
    """
    check_name(name)
    if wishes.abstain_precision is not None:
        check_share(wishes.abstain_precision)
    labels, test = dataset.labels, dataset.test
    height, width, _ = dataset.image_shape
    spec = own_image(run.config) or image_spec(dataset.mode, height, width, run.config.resize)
    graph = export_onnx(network, dataset.image_shape)
    content = graph.SerializeToString()
    embedding = _prove_embedding(network, content, test.images_NHWC)
    check_contract(content, spec, len(labels), embedding=embedding)
    session = open_session(content)
    parity = prove(network, session.run, test.images_NHWC)
    test_logits_NK, test_NK = run_images(session, test.images_NHWC)
    _, validation_NK = run_images(session, dataset.validation.images_NHWC)
    before = evaluate(softmax(test_logits_NK), test.targets_N)
    rows = choose_golden(test_NK, test.targets_N)
    golden, golden_NHWC = encode_golden(test.images_NHWC[rows], spec)
    _, golden_NK = run_batches(session.run, golden_NHWC, 1)
    draft = Draft(
        graph=graph,
        labels=labels,
        image=spec,
        golden=draft_golden(golden, labels, golden_NK),
        parity=parity,
        provenance=_provenance(run),
        temperature=outcome.temperature,
        lower=_convert_all(graph, dataset, test_NK, golden_NHWC, wishes),
        metrics=Metrics(
            split="test",
            **asdict(outcome.test),
            calibration_error_before=before.calibration_error,
            confusion=confusion(test_NK.argmax(axis=1), test.targets_N, len(labels)),
        ),
        abstain=_choose_abstain(dataset, validation_NK, test_NK, wishes),
        statistics=describe_training(dataset, validation_NK),
        embedding=embedding,
    )
    if wishes.max_drop is not None:
        check_serving(repository, name, labels, _measured(test, test_NK), wishes.max_drop)
    return publish_draft(draft, name, repository)


def _measured(test: Split, test_NK: NDArray[np.float32]) -> Measured:
    """Return the accuracy of the published graph, and how another version is measured beside it."""
    return Measured(
        float((test_NK.argmax(axis=1) == test.targets_N).mean()),
        test.targets_N,
        lambda image: _as_decoded(test, image),
        lambda file, images_NHWC: run_images(open_session(file), images_NHWC),
    )


def _as_decoded(split: Split, image: ImageSpec) -> Iterator[NDArray[np.uint8]]:
    """Yield a split as another version decodes it, uint8 [n, H, W, C]."""
    images_NHWC = split.images_NHWC
    if images_NHWC.shape[1:] == image.shape_HWC:
        yield images_NHWC
        return
    for start in range(0, len(images_NHWC), _ROWS):
        rows = images_NHWC[start : start + _ROWS]
        yield np.stack([decode(encode_png(row), image) for row in rows])


def prove(
    network: ServedNetwork,
    run: RunBatch,
    images_NHWC: NDArray[np.uint8],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare torch and onnxruntime on real images at several batch sizes.

    Args:
        network: The reference, put into evaluation mode.
        run: Runs the exported graph.
        images_NHWC: Real images, uint8 [N, H, W, C]; the first 1,024 are used.
        batch_sizes: Rows of a run; each size runs all the images.
        tolerance: Largest difference between two probabilities that is still the same answer.

    Returns:
        The largest differences.

    Raises:
        ParityError: A probability differs by more than the tolerance, or a label differs.
    """
    images_NHWC = images_NHWC[:MAX_IMAGES]
    pairs = {
        size: (
            run_batches(network.answer, images_NHWC, size),
            run_batches(run, images_NHWC, size),
        )
        for size in batch_sizes
    }
    return compare(pairs, names="onnxruntime against torch", tolerance=tolerance)


def _prove_embedding(network: ServedNetwork, content: bytes, images_NHWC: NDArray[np.uint8]) -> int:
    """Compare the embeddings of torch and onnxruntime on one batch.

    Returns:
        D; 0 if the graph has none.

    Raises:
        ParityError: A value differs by more than float32 sums in another order do.
    """
    if not network.has_embedding:
        return 0
    images_NHWC = images_NHWC[: BATCH_SIZES[-1]]
    expected_ND = network.embed(images_NHWC)
    got_ND = run_output(content, "embedding", images_NHWC)
    largest = float(np.abs(expected_ND).max())
    if got_ND.shape != expected_ND.shape or not np.allclose(
        got_ND, expected_ND, rtol=0, atol=EMBEDDING_TOLERANCE * max(1.0, largest)
    ):
        raise ParityError(
            f"embedding: expected onnxruntime to answer as torch, {list(expected_ND.shape)}, got "
            f"{list(got_ND.shape)} with a difference above {EMBEDDING_TOLERANCE:g} of the largest "
            "value"
        )
    return int(expected_ND.shape[1])


def _convert_all(
    graph: onnx.ModelProto,
    dataset: Dataset,
    test_NK: NDArray[np.float32],
    golden_NHWC: NDArray[np.uint8],
    wishes: Wishes,
) -> list[LowerGraph]:
    """Convert the fp32 graph to each precision asked for; each must pass its gate."""
    lower = []
    for precision in wishes.precisions:
        converted = convert(graph, precision, dataset.train.images_NHWC)
        gate = measure_gate(
            test_NK,
            converted.SerializeToString(),
            dataset.test.images_NHWC,
            dataset.test.targets_N,
            golden_NHWC,
            wishes.max_accuracy_drop,
        )
        check_gate(gate, precision)
        lower.append(LowerGraph(precision, converted, gate))
    return lower


def _choose_abstain(
    dataset: Dataset,
    validation_NK: NDArray[np.float32],
    test_NK: NDArray[np.float32],
    wishes: Wishes,
) -> Abstain | None:
    if wishes.abstain_precision is None:
        return None
    return choose_abstain(
        validation_NK,
        dataset.validation.targets_N,
        test_NK,
        dataset.test.targets_N,
        wishes.abstain_precision,
    )


def _provenance(run: Run) -> Provenance:
    return Provenance(
        git=run.git,
        command=run.command,
        seed=run.config.seed,
        dataset=run.config.dataset,
        dataset_sha256=run.dataset_sha256,
        versions=run.versions,
        date=run.date,
    )
