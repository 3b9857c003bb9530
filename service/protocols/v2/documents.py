"""V2's documents about the server and its models: metadata, configuration, index.

Plain documents with the field names of the protocol's JSON; gRPC's messages have the same names, so
both wires carry the same facts. Knows classifiers and catalogs, no HTTP and no gRPC.
"""

import importlib.metadata
import json
from typing import Any

from models.artifact import ModelArtifact, TensorSpec
from service.pipeline.classifier import Classifier
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
