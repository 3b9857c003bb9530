"""Publish a draft as the next version of a model.

The one way into the repository, for trained networks and for adopted graphs. Between the proof and
the published file only name, version and labels are written into the graph's metadata; no node
changes.
"""

import hashlib
from pathlib import Path

import onnx

from export import weights
from export.draft import Draft, DraftGolden
from export.errors import ExportError
from models.artifact import (
    ImageSpec,
    ModelArtifact,
    ModelFile,
    Precision,
    contract_tensors,
    graph_metadata,
)
from models.evidence import Gate, Golden
from models.onnx_data import DataFile
from models.onnx_file import OnnxFileError, check_graph
from models.repository import ModelRepository


def publish(
    draft: Draft, name: str, repository: ModelRepository, max_bytes: int = weights.MAX_BYTES
) -> ModelArtifact:
    """Write a draft's files into the repository: all of them, or nothing.

    Args:
        draft: What is published.
        name: Name of the model.
        repository: Where to publish.
        max_bytes: Size from which weights lie in a file beside their graph.

    Returns:
        The published artifact.

    Raises:
        ExportError: A graph does not keep the contract.
        ArtifactError: The repository refuses the name or the files.
    """
    classes = len(draft.labels)

    def build(staging: Path, version: int) -> ModelArtifact:
        def write(graph: onnx.ModelProto, precision: Precision, gate: Gate | None) -> ModelFile:
            stamp(graph, name, version, draft.labels)
            path = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
            data = None
            if precision == "fp32" and draft.weights is not None:
                data = weights.write(graph, draft.weights, staging / path, max_bytes)
                content = (staging / path).read_bytes()
            else:
                content = graph.SerializeToString()
                (staging / path).write_bytes(content)
            check_contract(content, draft.image, classes, data, draft.embedding)
            own = draft.precision if precision == "fp32" != draft.precision else None
            return ModelFile(path, precision, sha256(content), len(content), gate, data, own)

        inputs, outputs = contract_tensors(draft.image, classes, draft.embedding)
        opsets = draft.graph.opset_import
        return ModelArtifact(
            name=name,
            version=version,
            labels=draft.labels,
            inputs=inputs,
            outputs=outputs,
            image=draft.image,
            files=(
                write(draft.graph, "fp32", None),
                *(write(lower.graph, lower.precision, lower.gate) for lower in draft.lower),
            ),
            opset=next(o.version for o in opsets if o.domain in ("", "ai.onnx")),
            temperature=draft.temperature,
            golden=_write_golden(staging, draft.golden),
            metrics=draft.metrics,
            parity=draft.parity,
            provenance=draft.provenance,
            abstain=draft.abstain,
            statistics=draft.statistics,
            proof=draft.proof,
            task=draft.task,
            thresholds=draft.thresholds,
        )

    return repository.publish(name, build)


def stamp(graph: onnx.ModelProto, name: str, version: int, labels: tuple[str, ...]) -> None:
    """Write name, version and labels into a graph, so that a stray file can be adopted again."""
    onnx.helper.set_model_props(graph, graph_metadata(name, version, labels))


def check_contract(
    content: bytes,
    image: ImageSpec,
    classes: int,
    data: DataFile | None = None,
    embedding: int = 0,
) -> None:
    """Check a serialized graph against the contract.

    Args:
        content: The whole ONNX file.
        image: What a row looks like.
        classes: K.
        data: File of its weights; None: they are inside.
        embedding: D of its output ``embedding``; 0 for none.

    Raises:
        ExportError: A tensor has another name, datatype or shape, or data lies outside the file.
    """
    try:
        check_graph(content, *contract_tensors(image, classes, embedding), data=data)
    except OnnxFileError as error:
        raise ExportError(f"graph: {error}") from None


def sha256(content: bytes) -> str:
    """Return the digest as ``model.json`` states it."""
    return hashlib.sha256(content).hexdigest()


def _write_golden(staging: Path, drafts: tuple[DraftGolden, ...]) -> tuple[Golden, ...]:
    (staging / "golden").mkdir()
    golden = []
    for number, draft in enumerate(drafts):
        path = f"golden/{number}.png"
        (staging / path).write_bytes(draft.encoded)
        golden.append(Golden(path, sha256(draft.encoded), draft.label, draft.probabilities))
    return tuple(golden)
