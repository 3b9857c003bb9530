"""The publish stage: everything about one version, gathered and put into the model repository.

The graph is exported, checked and verified inside the repository's staging folder, so that what was
proved and what is published are the same bytes.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime

from models.artifact import (
    Golden,
    ImageSpec,
    Metrics,
    ModelArtifact,
    ModelFile,
    Provenance,
)
from models.image import decode, encode_png
from models.repository import ModelRepository
from training.datasets import Dataset
from training.encoded import image_spec
from training.export import OPSET, ServedNetwork, check_contract, export_onnx, stamp
from training.runs import Outcome, Run
from training.splits import Split
from training.verify import open_session, run_session, verify

_MODEL_FILE = "model.onnx"
_GOLDEN_IMAGES = 8


def publish(
    repository: ModelRepository,
    name: str,
    network: ServedNetwork,
    dataset: Dataset,
    run: Run,
    outcome: Outcome,
) -> ModelArtifact:
    """Export, verify and publish a fitted network as the next version of a model.

    Args:
        repository: Where to publish.
        name: Name of the model.
        network: What the run fitted, with its temperature.
        dataset: What it was fitted on; the test split gives the images for parity and golden.
        run: Where it came from.
        outcome: What it scored.

    Returns:
        The published artifact.

    Raises:
        ParityError: onnxruntime does not answer as torch does.
        ExportError: The exported graph breaks the contract.
        ArtifactError: The repository refuses the name or what was built.
    """

    def build(staging: Path, version: int) -> ModelArtifact:
        model = export_onnx(network, dataset.image_shape)
        stamp(model, name, version, dataset.labels)
        content = model.SerializeToString()
        inputs, outputs = check_contract(content, dataset.image_shape, len(dataset.labels))
        (staging / _MODEL_FILE).write_bytes(content)
        return ModelArtifact(
            name=name,
            version=version,
            labels=dataset.labels,
            inputs=inputs,
            outputs=outputs,
            image=_image_spec(dataset),
            files=(ModelFile(_MODEL_FILE, "fp32", _sha256(content), len(content)),),
            opset=OPSET,
            temperature=outcome.temperature,
            golden=write_golden(staging, open_session(content), dataset),
            metrics=Metrics(split="test", **asdict(outcome.test)),
            parity=verify(network, content, dataset.test),
            provenance=_provenance(run),
        )

    return repository.publish(name, build)


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
