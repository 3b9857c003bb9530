"""V2's documents about the server and its models: metadata, configuration, statistics, index.

Plain documents with the field names of the protocol's JSON; gRPC's messages have the same names, so
both wires carry the same facts. Knows classifiers and catalogs, no HTTP and no gRPC.
"""

import importlib.metadata
import json
import time
from typing import Any

from models.artifact import ModelArtifact, TensorSpec
from service.metrics import (
    BATCH_ROWS,
    DECODE_SECONDS,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    RUN_SECONDS,
    Meters,
)
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch
from service.rollout.catalog import Catalog
from service.rollout.versions import VersionState

Document = dict[str, Any]

NAME = "foveal"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
]


def version() -> str:
    """Return the version of the installed distribution, "0" in a bare checkout."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def server_metadata() -> Document:
    """Return name, version and extensions of the server."""
    return {"name": NAME, "version": version(), "extensions": EXTENSIONS}


def model_metadata(catalog: Catalog, classifier: Classifier) -> Document:
    """Return a model's inputs and outputs; the first dimension of each tensor is the rows."""
    artifact = classifier.artifact
    versions = sorted(c.artifact.version for c in catalog if c.artifact.name == artifact.name)
    return {
        "name": artifact.name,
        "versions": [str(number) for number in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in artifact.inputs],
        "outputs": [_tensor(spec) for spec in artifact.outputs[:2]],
    }


def model_config(classifier: Classifier) -> Document:
    """Return the model's configuration in the terms of Triton's ModelConfig."""
    artifact, limits = classifier.artifact, classifier.limits.batch
    plan = classifier.session.plan
    group: Document = {
        "name": artifact.name,
        "count": classifier.limits.instances,
        "kind": "KIND_CPU",
    }
    parameters = _task(artifact)
    if plan.device != "cpu":
        group |= {"count": 1, "kind": "KIND_GPU", "gpus": [plan.index]}
        parameters |= {"device": plan.device, "precision": plan.precision, "binding": plan.binding}
    if tuned := classifier.tuned:
        parameters["plan"] = f"tuned {tuned.date}"
    if classifier.fallback:
        parameters["device_fallback"] = classifier.fallback
    document: Document = {
        "name": artifact.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [artifact.version]}},
        "max_batch_size": limits.max_batch_size,
        "input": [
            {
                "name": spec.name,
                "data_type": f"TYPE_{spec.datatype}",
                "format": "FORMAT_NHWC",
                "dims": list(spec.shape[1:]),
            }
            for spec in artifact.inputs
        ],
        "output": [
            {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape[1:])}
            for spec in artifact.outputs[:2]
        ],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(limits.max_queue_delay_s * 1e6),
            "default_queue_policy": {
                "default_timeout_microseconds": round(limits.max_wait_s * 1e6)
            },
        },
        "instance_group": [group],
        "default_model_filename": artifact.fp32.path,
    }
    if parameters:
        document["parameters"] = {
            name: {"string_value": value} for name, value in parameters.items()
        }
    return document


def repository_index(states: list[VersionState], *, ready: bool) -> list[Document]:
    """Return the index of the repository, an entry for each version.

    Args:
        states: The versions.
        ready: Whether to leave out what is not served.
    """
    return [
        {
            "name": state.name,
            "version": str(state.version),
            "state": "READY" if state.is_served else "UNAVAILABLE",
            "reason": state.reason,
        }
        for state in states
        if state.is_served or not ready
    ]


class Statistics:
    """Counts of this process, by model, in the terms of V2; over all protocols.

    Most are read back from Prometheus' children, and cost a request nothing; only runs by their
    exact number of rows are counted here.

    Args:
        meters: The metrics to read.
    """

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._runs: dict[tuple[str, int], dict[int, list[float]]] = {}
        self._last_ms: dict[tuple[str, int], int] = {}

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Count one finished run."""
        key = classifier.artifact.name, classifier.artifact.version
        runs = self._runs.setdefault(key, {}).setdefault(batch.rows, [0, 0.0])
        runs[0] += 1
        runs[1] += batch.run_s
        self._last_ms[key] = round(time.time() * 1000)

    def of(self, classifiers: list[Classifier]) -> Document:
        """Return ``model_stats`` of some classifiers."""
        self._meters.flush()
        return {"model_stats": [self._model(classifier) for classifier in classifiers]}

    def _model(self, classifier: Classifier) -> Document:
        key = classifier.artifact.name, classifier.artifact.version
        labels = key[0], str(key[1])
        runs, seconds = _totals(RUN_SECONDS.labels(*labels))
        request_count, request_s = _totals(REQUEST_SECONDS.labels(*labels))
        failed = _failures(labels)
        _, rows = _totals(BATCH_ROWS.labels(*labels))
        batches = self._runs.get(key, {})
        return {
            "name": key[0],
            "version": labels[1],
            "last_inference": self._last_ms.get(key, 0),
            "inference_count": round(rows),
            "execution_count": runs,
            "inference_stats": {
                "success": _leaf(max(request_count - failed, 0), request_s),
                "fail": _leaf(failed, 0.0),
                "queue": _leaf(*_totals(QUEUE_SECONDS.labels(*labels))),
                "compute_input": _leaf(*_totals(DECODE_SECONDS.labels(*labels))),
                "compute_infer": _leaf(runs, seconds),
                "compute_output": _leaf(runs, 0.0),
                "cache_hit": _leaf(0, 0.0),
                "cache_miss": _leaf(0, 0.0),
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _leaf(round(count), 0.0),
                    "compute_infer": _leaf(round(count), run_s),
                    "compute_output": _leaf(round(count), 0.0),
                }
                for size, (count, run_s) in sorted(batches.items())
            ],
        }


def _task(artifact: ModelArtifact) -> dict[str, str]:
    """Return what a client must know to read ``probabilities`` that are no softmax."""
    if artifact.task == "single-label":
        return {}
    parameters: dict[str, str] = {"task": artifact.task}
    if artifact.thresholds:
        parameters["thresholds"] = json.dumps(artifact.thresholds)
    return parameters


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _leaf(count: int, seconds: float) -> Document:
    return {"count": count, "ns": round(seconds * 1e9)}


def _totals(child: Any) -> tuple[int, float]:
    """Return count and sum of a histogram's child; leans on what ``metrics.Tally`` leans on."""
    return round(sum(bucket.get() for bucket in child._buckets)), float(child._sum.get())


def _failures(labels: tuple[str, str]) -> int:
    """Return how many requests for a version were answered with an error."""
    children: Any = REQUESTS._metrics
    failed = 0
    for key, child in list(children.items()):
        if tuple(key[:2]) == labels and key[3] >= "400":
            failed += round(child._value.get())
    return failed
