"""The publish stage: everything about one version, gathered and put into the model repository.

The graph is exported, checked and verified inside the repository's staging folder, so that what was
proved and what is published are the same bytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.abstain import choose_abstain
from models.artifact import (
    Golden,
    ImageSpec,
    Metrics,
    ModelArtifact,
    ModelFile,
    Precision,
    Provenance,
)
from models.image import decode, encode_png
from models.repository import ModelRepository
from training.datasets.encoded import image_spec
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.evaluate import describe_training, error_before
from training.export import OPSET, ServedNetwork, check_contract, export_onnx, stamp
from training.precision import (
    MAX_ACCURACY_DROP,
    check_gate,
    convert,
    measure_gate,
    run_split,
)
from training.runs import Outcome, Run
from training.verify import Outputs, open_session, run_session, verify

_MODEL_FILE = "model.onnx"
_GOLDEN_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is published beside the fp32 file.

    Attributes:
        precisions: Files of lower precision to write.
        max_accuracy_drop: Accuracy that each of them may lose, as a share.
        abstain_precision: Share of the answers that shall be right, the others being withheld;
            None: the model always answers.
    """

    precisions: Sequence[Precision] = ()
    max_accuracy_drop: float = MAX_ACCURACY_DROP
    abstain_precision: float | None = None


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
    """Export, verify and publish a fitted network as the next version of a model.

    Args:
        repository: Where to publish.
        name: Name of the model.
        network: What the run fitted, with its temperature.
        dataset: What it was fitted on; the test split gives the images for parity and golden.
        run: Where it came from.
        outcome: What it scored.
        wishes: What else is written.

    Returns:
        The published artifact.

    Raises:
        ParityError: onnxruntime does not answer as torch does.
        GateError: A file of lower precision loses too much.
        ConfigError: No threshold is as precise as was asked for.
        ExportError: The exported graph breaks the contract, or has nothing to convert.
        ArtifactError: The repository refuses the name or what was built.
    """

    def build(staging: Path, version: int) -> ModelArtifact:
        model = export_onnx(network, dataset.image_shape)
        stamp(model, name, version, dataset.labels)
        content = model.SerializeToString()
        inputs, outputs = check_contract(content, dataset.image_shape, len(dataset.labels))
        (staging / _MODEL_FILE).write_bytes(content)
        parity = verify(network, content, dataset.test)
        golden = write_golden(staging, open_session(content), dataset)
        test = run_split(content, dataset.test)
        lower = _write_lower(staging, model, test, dataset, golden, wishes)
        _, validation_NK = run_split(content, dataset.validation)
        return ModelArtifact(
            name=name,
            version=version,
            labels=dataset.labels,
            inputs=inputs,
            outputs=outputs,
            image=_image_spec(dataset),
            files=(ModelFile(_MODEL_FILE, "fp32", _sha256(content), len(content)), *lower),
            opset=OPSET,
            temperature=outcome.temperature,
            golden=golden,
            metrics=Metrics(
                split="test",
                **asdict(outcome.test),
                calibration_error_before=error_before(test[0], dataset.test.targets_N),
            ),
            parity=parity,
            provenance=_provenance(run),
            abstain=None
            if wishes.abstain_precision is None
            else choose_abstain(
                validation_NK,
                dataset.validation.targets_N,
                test[1],
                dataset.test.targets_N,
                wishes.abstain_precision,
            ),
            statistics=describe_training(dataset, validation_NK),
        )

    return repository.publish(name, build)


def _write_lower(
    staging: Path,
    model: onnx.ModelProto,
    test: Outputs,
    dataset: Dataset,
    golden: Sequence[Golden],
    wishes: Wishes,
) -> list[ModelFile]:
    """Convert the fp32 graph to each precision asked for, let it pass its gate, and write it."""
    spec = _image_spec(dataset)
    images = np.stack([decode((staging / one.path).read_bytes(), spec) for one in golden])
    files = []
    for precision in wishes.precisions:
        lower = convert(model, precision, dataset.train)
        del lower.metadata_props[:]
        lower.metadata_props.extend(model.metadata_props)
        content = lower.SerializeToString()
        check_contract(content, dataset.image_shape, len(dataset.labels))
        gate = measure_gate(test[1], content, dataset.test, images, wishes.max_accuracy_drop)
        check_gate(gate, precision)
        path = f"model.{precision}.onnx"
        (staging / path).write_bytes(content)
        files.append(ModelFile(path, precision, _sha256(content), len(content), gate))
    return files


def write_golden(
    staging: Path, session: onnxruntime.InferenceSession, dataset: Dataset
) -> tuple[Golden, ...]:
    """Write golden images as PNG files, with what the model says to each file.

    Args:
        staging: Folder of the version; the images go into its ``golden`` folder.
        session: The model that is being published.
        dataset: Its test split gives the images.
    """
    folder = staging / "golden"
    folder.mkdir()
    golden: list[Golden] = []
    for row in choose_golden(session, dataset.test):
        target = int(dataset.test.targets_N[row])
        encoded = encode_png(dataset.test.images_NHWC[row])
        path = folder / f"{len(golden)}.png"
        path.write_bytes(encoded)
        # Through the file's bytes, as every load will do it.
        _, probabilities_NK = run_session(session, decode(encoded, _image_spec(dataset))[None])
        golden.append(
            Golden(
                path=path.relative_to(staging).as_posix(),
                sha256=_sha256(encoded),
                label=dataset.labels[target],
                probabilities=tuple(float(p) for p in probabilities_NK[0]),
            )
        )
    return tuple(golden)


def choose_golden(session: onnxruntime.InferenceSession, test: Split) -> list[int]:
    """Choose up to 8 rows: the first that is classified rightly of each class, then the next ones.

    Returns:
        Row numbers in the test split, one a class as far as the classes reach.
    """
    _, probabilities_NK = run_session(session, test.images_NHWC[:1024])
    is_right_N = probabilities_NK.argmax(axis=1) == test.targets_N[: len(probabilities_NK)]
    # Wrong answers rather than none: a self-test needs known answers, not right ones.
    right = np.flatnonzero(is_right_N) if is_right_N.any() else np.arange(len(is_right_N))
    _, first_of_class = np.unique(test.targets_N[right], return_index=True)
    firsts = right[np.sort(first_of_class)]
    others = np.setdiff1d(right, firsts)
    return [int(row) for row in np.concatenate([firsts, others])[:_GOLDEN_IMAGES]]


def _image_spec(dataset: Dataset) -> ImageSpec:
    height, width, _ = dataset.image_shape
    return image_spec(dataset.mode, height, width)


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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
