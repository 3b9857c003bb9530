"""Every manifest is rendered by kubectl and valid by the schemas of Kubernetes and of operators."""

import copy
import importlib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic import BaseModel

import deploy.rules
from tests.deploy.manifests import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    POD_FIELDS,
    Resource,
    one,
    pod_of,
    rendered,
)
from tests.deploy.watched import RULES

# The oldest that has preStop's sleep switched on, and the newest that the package knows.
VERSIONS = ("1.30", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
# KServe ships no schema apart from its cluster resources: the fields that it knows, of those that
# we could want, as in the models of its own client, kserve 0.21.0.
KSERVE_FIELDS = {
    "ServingRuntime": {
        "containers",
        "multiModel",
        "protocolVersions",
        "supportedModelFormats",
        "volumes",
        "affinity",
        "annotations",
        "disabled",
        "labels",
        "nodeSelector",
        "tolerations",
    },
    "supportedModelFormats": {"autoSelect", "name", "priority", "version"},
    "predictor": {
        "maxReplicas",
        "minReplicas",
        "model",
        "scaleMetric",
        "scaleMetricType",
        "scaleTarget",
        "deploymentStrategy",
        "timeout",
        "canaryTrafficPercent",
        *POD_FIELDS,
    },
    "model": {"modelFormat", "protocolVersion", "runtime", "storageUri", "resources", "env"},
}


def validate(resource: Resource) -> None:
    group = resource["apiVersion"].split("/")[0]
    if group == "monitoring.coreos.com":
        assert_known_to_operator(resource)
    elif group == "serving.kserve.io":
        assert_known_to_kserve(resource)
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


def assert_known_to_operator(resource: Resource) -> None:
    """Its models drop what they do not know: nothing may be lost on the way."""
    # Thousands of classes, seconds to import: only by the process that asks.
    models = importlib.import_module("cloudcoil.models.prometheus_operator.v1")
    model: type[BaseModel] = getattr(models, resource["kind"])
    read = model.model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read == resource


def assert_known_to_kserve(resource: Resource) -> None:
    spec = resource["spec"]
    if resource["kind"] == "ServingRuntime":
        assert resource["apiVersion"] == "serving.kserve.io/v1alpha1"
        assert spec.keys() <= KSERVE_FIELDS["ServingRuntime"]
        for model_format in spec["supportedModelFormats"]:
            assert "name" in model_format.keys() <= KSERVE_FIELDS["supportedModelFormats"]
        assert spec["containers"]
        return
    assert resource["kind"] == "InferenceService"
    assert resource["apiVersion"] == "serving.kserve.io/v1beta1"
    assert spec.keys() == {"predictor"}
    assert spec["predictor"].keys() <= KSERVE_FIELDS["predictor"]
    model = spec["predictor"]["model"]
    assert "modelFormat" in model.keys() <= KSERVE_FIELDS["model"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}")
    assert len(resources) >= 3
    for resource in resources:
        validate(resource)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_every_component_can_be_switched_on(overlay: str) -> None:
    """Those that are off stand as a comment; with all of them the whole is valid, too."""
    resources = rendered(f"overlays/{overlay}", "volume", "ingress")
    kinds = {resource["kind"] for resource in resources}
    assert {"Ingress", "PersistentVolumeClaim", "ServiceMonitor", "PrometheusRule"} <= kinds
    for resource in resources:
        validate(resource)
    pod = pod_of(resources)
    claim = one(resources, "PersistentVolumeClaim")["metadata"]["name"]
    assert {"claimName": claim} in [v.get("persistentVolumeClaim") for v in pod["volumes"]]
    [container] = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    assert {v["name"]: v.get("value") for v in container["env"]}["FOVEAL_MODELS"] in mounted


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_a_promotion_may_write_the_models_and_nothing_else(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}", "volume", "promotion")
    for resource in resources:
        validate(resource)
    pod = pod_of(resources)
    [container] = pod["containers"]
    models = {v["name"]: v.get("value") for v in container["env"]}["FOVEAL_MODELS"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/tmp", models} and not mounts[models].get("readOnly")
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_keys_and_tls_reach_every_part(overlay: str) -> None:
    """Probes go on, over TLS and without a key; metrics have their own port everywhere."""
    resources = rendered(f"overlays/{overlay}", "keys", "tls")
    for resource in resources:
        validate(resource)
    pod = pod_of(resources)
    [container] = pod["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    mounts = [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")]
    for name in ("FOVEAL_API_KEYS_FILE", "FOVEAL_TLS_CERT", "FOVEAL_TLS_KEY"):
        assert str(Path(values[name]).parent) in mounts
    assert {"foveal-keys", "foveal-tls"} <= {
        volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume
    }
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["scheme"] == "HTTPS" and asked["path"] in ("/livez", "/readyz")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert str(ports["metrics"]) == values["FOVEAL_METRICS_PORT"]
    service = one(resources, "Service")["spec"]["ports"]
    assert {port["targetPort"] for port in service} == {"http", "grpc", "metrics"}
    [ingress] = one(resources, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for port in ingress["ports"]} == {"http", "grpc", "metrics"}
    [endpoint] = one(resources, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("metrics", "https")


def test_keys_of_kserve() -> None:
    resources = rendered("overlays/kserve", "kserve-keys")
    spec = one(resources, "ServingRuntime")["spec"]
    [container] = spec["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volume = mounts[str(Path(values["FOVEAL_API_KEYS_FILE"]).parent)]
    assert {"name": volume, "secret": {"secretName": "foveal-keys"}} in spec["volumes"]
    [endpoint] = one(resources, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert str(endpoint["targetPort"]) == values["FOVEAL_METRICS_PORT"]
    assert endpoint["targetPort"] in [port["containerPort"] for port in container["ports"]]
    # KServe routes to the first one.
    assert container["ports"][0]["containerPort"] == 3000


def test_components_are_those_that_are_tested() -> None:
    assert {p.name for p in (KUBERNETES / "components").iterdir()} == set(COMPONENTS)
    assert {p.name for p in (KUBERNETES / "overlays").iterdir()} == set(OVERLAYS)


def test_kserves_pod_is_valid() -> None:
    """What KServe makes a pod of, as a pod."""
    pod = pod_of(rendered("overlays/kserve"))
    for version in VERSIONS:
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod},
            version,
            strict=True,
        )


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value"),
    [
        ("cpu", "Deployment", ("spec", "revisionHistoryLimit"), "many"),
        ("cpu", "Deployment", ("spec", "template", "spec", "gracePeriod"), 1),
        ("cpu", "HorizontalPodAutoscaler", ("spec", "minimumReplicas"), 1),
        ("cpu", "ServiceMonitor", ("spec", "endpoint"), []),
        ("cpu", "ServiceMonitor", ("spec", "endpoints"), "http"),
        ("cpu", "PrometheusRule", ("spec", "groups"), [{"rules": []}]),
        ("kserve", "PodMonitor", ("spec", "ports"), []),
        ("kserve", "ServingRuntime", ("spec", "protocols"), ["v2"]),
        ("kserve", "InferenceService", ("spec", "predictor", "replicas"), 2),
    ],
)
def test_a_mistake_is_found(overlay: str, kind: str, path: tuple[str, ...], value: Any) -> None:
    resource = copy.deepcopy(one(rendered(f"overlays/{overlay}"), kind))
    validate(resource)
    at: Any = resource
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, ValueError, AssertionError)):
        validate(resource)


def test_the_operators_rules_are_what_the_generator_gives() -> None:
    assert deploy.rules.PATH.read_text() == deploy.rules.rules_yaml(), "run python -m deploy.rules"
    rules = one(rendered("overlays/cpu"), "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert rules == RULES
