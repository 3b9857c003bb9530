"""Kubernetes' manifests, rendered by the real kubectl, once a session."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.programs import run
from tests.server import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "kserve")
COMPONENTS = ("ingress", "keys", "kserve-keys", "monitoring", "promotion", "tls", "volume")

Resource = dict[str, Any]


@functools.cache
def rendered(overlay: str, *components: str) -> tuple[Resource, ...]:
    """Return the resources of an overlay, with further components switched on in a copy of it."""
    if not components:
        return tuple(yaml.safe_load_all(run("kubectl", "kustomize", str(KUBERNETES / overlay))))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kubernetes"
        shutil.copytree(KUBERNETES, copy)
        path = copy / overlay / "kustomization.yaml"
        text = path.read_text()
        for component in components:
            line = f"  # - ../../components/{component}"
            assert line in text, f"{overlay}: expected a line to switch {component} on"
            text = text.replace(line, line.replace("# ", ""))
        path.write_text(text)
        return tuple(yaml.safe_load_all(run("kubectl", "kustomize", str(copy / overlay))))


def overlays() -> list[tuple[str, tuple[Resource, ...]]]:
    return [(name, rendered(f"overlays/{name}")) for name in OVERLAYS]


def one(resources: tuple[Resource, ...], kind: str) -> Resource:
    [found] = [resource for resource in resources if resource["kind"] == kind]
    return found


def pod_of(resources: tuple[Resource, ...]) -> Resource:
    """Return the pod's spec as Kubernetes runs it; of KServe as KServe puts it together."""
    kinds = {resource["kind"] for resource in resources}
    if "Deployment" in kinds:
        spec: Resource = one(resources, "Deployment")["spec"]["template"]["spec"]
        return spec
    runtime = one(resources, "ServingRuntime")["spec"]
    predictor = one(resources, "InferenceService")["spec"]["predictor"]
    pod = {key: value for key, value in predictor.items() if key in POD_FIELDS}
    return {**pod, "containers": runtime["containers"], "volumes": runtime["volumes"]}


# Of a predictor, what is the pod's and not KServe's.
POD_FIELDS = {"terminationGracePeriodSeconds", "automountServiceAccountToken"}
