"""The draft of a version: its content before ``publish`` gives it a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from models.artifact import ImageSpec, Precision, Task
from models.evidence import Abstain, Gate, Metrics, Parity, Proof, Provenance, Statistics


@dataclass(frozen=True, slots=True)
class DraftGolden:
    """A golden image that is not yet in a folder.

    Attributes:
        encoded: The PNG file.
        label: Label of its highest probability.
        probabilities: What the graph answers to it alone, [K].
    """

    encoded: bytes
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LowerGraph:
    """The graph in a lower precision, and the gate that it passed."""

    precision: Precision
    graph: onnx.ModelProto
    gate: Gate


@dataclass(frozen=True, slots=True)
class Draft:
    """A proved graph with everything that ``model.json`` says about it.

    Attributes:
        graph: Keeps the contract; ``publish`` writes name and version into it.
        labels: Label of each column of its outputs.
        image: How bytes become a row of its input.
        golden: Images with known answers.
        parity: What the proof measured.
        provenance: Where the graph came from.
        temperature: Divides the logits inside the graph.
        lower: The same graph in other precisions.
        metrics: Scores, if it was evaluated.
        abstain: When the model abstains, if it may.
        statistics: What it was trained on, if known.
        proof: Agreement with the user's own pipeline, if it was compared.
        task: What its probabilities are.
        thresholds: Of a multi-label model: least probability of each label, else ().
        weights: Folder of the weights of ``graph`` (``weights``); None: they are inside it.
        precision: What ``graph`` computes in, as an adopted file came.
        embedding: D of the graph's output ``embedding``; 0 for none.
    """

    graph: onnx.ModelProto
    labels: tuple[str, ...]
    image: ImageSpec
    golden: tuple[DraftGolden, ...]
    parity: Parity
    provenance: Provenance
    temperature: float = 1.0
    lower: Sequence[LowerGraph] = ()
    metrics: Metrics | None = None
    abstain: Abstain | None = None
    statistics: Statistics | None = None
    proof: Proof | None = None
    task: Task = "single-label"
    thresholds: tuple[float, ...] = ()
    weights: Path | None = None
    precision: Precision = "fp32"
    embedding: int = 0
