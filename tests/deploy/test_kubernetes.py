"""What the manifests promise each other and the service: names, ports, probes, times, limits."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.settings import MOST_BODY_BYTES, Settings, load_settings
from tests.deploy.manifests import KUBERNETES, OVERLAYS, Resource, one, pod_of, rendered
from tests.server import ROOT, RunningServer, running_server
from tests.tiny import publish_tiny

EVERY = pytest.mark.parametrize("overlay", OVERLAYS)
OWN = pytest.mark.parametrize("overlay", ["cpu", "gpu"])  # KServe makes the rest by itself
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["foveal"]
CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"


def container_of(overlay: str) -> Resource:
    [container] = pod_of(rendered(f"overlays/{overlay}"))["containers"]
    found: Resource = container
    return found


def environment_of(overlay: str) -> dict[str, str]:
    """Return what the pod's container gets; values from secrets are left out."""
    container = container_of(overlay)
    maps = {
        resource["metadata"]["name"]: resource["data"]
        for resource in rendered(f"overlays/{overlay}")
        if resource["kind"] == "ConfigMap"
    }
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    return found | {v["name"]: v["value"] for v in container.get("env", ()) if "value" in v}


def names_of(overlay: str) -> set[str]:
    return {*environment_of(overlay), *(v["name"] for v in container_of(overlay).get("env", ()))}


def assert_understood(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    known = {f"FOVEAL_{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= known
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@EVERY
def test_variables_are_settings_with_values_it_understands(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names_of(overlay)
    assert_understood(
        dict.fromkeys(names_of(overlay) - set(environment_of(overlay)), ""), monkeypatch
    )
    assert_understood(environment_of(overlay), monkeypatch)


@EVERY
def test_the_pod_outlives_the_drain(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(rendered(f"overlays/{overlay}"))
    before_s = container_of(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = assert_understood(environment_of(overlay), monkeypatch).drain_timeout_s
    assert before_s >= 1
    assert before_s + drain_s + 5 <= pod["terminationGracePeriodSeconds"]


def test_compose_waits_for_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        k: re.sub(r"\$\{\w+:-(.*)}", r"\1", v) for k, v in COMPOSE["environment"].items()
    }
    settings = assert_understood(environment, monkeypatch)
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) >= settings.drain_timeout_s + 5
    [mount] = COMPOSE["volumes"]
    assert mount.endswith(f":{environment['FOVEAL_MODELS']}:${{MODELS_MODE:-ro}}")


@OWN
def test_names_of_ports_agree(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}", "ingress")
    [container] = pod_of(resources)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 3000, "grpc": Settings.model_fields["grpc_port"].default}
    service = one(resources, "Service")["spec"]["ports"]
    assert {port["targetPort"] for port in service} == set(ports)
    offered = {port["name"] for port in service}
    for endpoint in one(resources, "ServiceMonitor")["spec"]["endpoints"]:
        assert endpoint["port"] in offered
    for rule in one(resources, "Ingress")["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"]["port"]["name"] in offered
    for rule in one(resources, "NetworkPolicy")["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} == set(ports)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"


@OWN
def test_selectors_find_the_pods(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}")
    labels = one(resources, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    spread = pod_of(resources)["topologySpreadConstraints"]
    for selector in (
        one(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        one(resources, "Service")["spec"]["selector"],
        one(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(constraint["labelSelector"]["matchLabels"] for constraint in spread),
    ):
        assert selector and selector.items() <= labels
    service = one(resources, "Service")["metadata"]
    monitor = one(resources, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["labels"].items()
    # The operator names the job after the Service: what alerts and dashboard look for.
    assert service["name"] == "foveal" and "jobLabel" not in monitor


@EVERY
def test_monitors_ask_as_often_as_compose(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}")
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [endpoint] = [
        endpoint
        for resource in resources
        if resource["kind"] in ("ServiceMonitor", "PodMonitor")
        for key in ("endpoints", "podMetricsEndpoints")
        for endpoint in resource["spec"].get(key, ())
    ]
    assert endpoint["interval"] == config["global"]["scrape_interval"]
    if overlay == "kserve":
        assert {"targetLabel": "job", "replacement": "foveal"} in endpoint["relabelings"]


@OWN
def test_the_autoscaler_scales_the_deployment_by_what_the_adapter_offers(overlay: str) -> None:
    resources = rendered(f"overlays/{overlay}")
    scaler = one(resources, "HorizontalPodAutoscaler")["spec"]
    deployment = one(resources, "Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # an apply would undo the autoscaler
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    wanted = {m["pods"]["metric"]["name"] for m in scaler["metrics"] if m["type"] == "Pods"}
    assert wanted == {rule["name"]["as"]}
    for metric in scaler["metrics"]:
        if metric["type"] == "Resource":
            assert metric["resource"]["name"] in container_of(overlay)["resources"]["requests"]
    budget = one(resources, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] < scaler["minReplicas"]


@EVERY
def test_resources_are_asked_for(overlay: str) -> None:
    resources = container_of(overlay)["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert resources["limits"] == resources["requests"]  # whole cores, counted by the service
    assert resources["requests"]["cpu"].isdigit()
    assert ("nvidia.com/gpu" in resources["limits"]) is (overlay == "gpu")


@EVERY
def test_pods_may_do_nothing_that_they_need_not(overlay: str) -> None:
    pod, container = pod_of(rendered(f"overlays/{overlay}")), container_of(overlay)
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    memory = {v["name"] for v in pod["volumes"] if v.get("emptyDir", {}).get("sizeLimit")}
    assert {m["mountPath"] for m in container["volumeMounts"] if m["name"] in memory} == {"/tmp"}


def test_compose_lets_the_service_do_no_more() -> None:
    assert COMPOSE["read_only"] is True and COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"] and COMPOSE["mem_limit"]
    assert [mount.split(":")[0] for mount in COMPOSE["tmpfs"]] == ["/tmp"]


@pytest.mark.skipif(not CONTAINERFILE.exists(), reason="no Containerfile here")
@EVERY
def test_the_image_is_made_for_it(overlay: str) -> None:
    text = CONTAINERFILE.read_text()
    user = (
        container_of(overlay)["securityContext"].get("runAsUser")
        or pod_of(rendered(f"overlays/{overlay}"))["securityContext"]["runAsUser"]
    )
    assert f"USER {user}:" in text
    assert "BENTOML_HOME=/tmp/" in text and "EXPOSE 3000 8001" in text
    assert "command" not in container_of(overlay) and "args" not in container_of(overlay)


def test_overlays_run_the_version_of_this_checkout() -> None:
    found = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    images = {overlay: container_of(overlay)["image"] for overlay in OVERLAYS}
    assert images == {
        "cpu": f"foveal:{found[1]}",
        "gpu": f"foveal:{found[1]}-gpu",
        "kserve": f"foveal:{found[1]}",
    }


@pytest.mark.e2e
@EVERY
def test_probes_answer(overlay: str, server: RunningServer) -> None:
    container = container_of(overlay)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert httpx.get(server.url + path).status_code == 200, path


@pytest.mark.e2e
def test_a_pod_without_its_models_is_live_and_not_ready(tmp_path: Path) -> None:
    """The liveness probe must not restart what a restart does not mend."""
    publish_tiny(tmp_path / "models")
    (tmp_path / "models/tiny/1/model.onnx").write_bytes(b"not a model")
    with running_server(tmp_path / "models", tmp_path, is_ready=False) as broken:
        for overlay in OVERLAYS:
            container = container_of(overlay)
            status: dict[str, Any] = {
                probe: httpx.get(broken.url + container[probe]["httpGet"]["path"]).status_code
                for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            }
            assert status == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}


def test_the_ingress_lets_through_what_the_service_takes() -> None:
    ingress = one(rendered("overlays/cpu", "ingress"), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    size = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(size.removesuffix("m")) << 20 == MOST_BODY_BYTES
    wait_s = int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"])
    assert wait_s > Settings.model_fields["request_timeout_s"].default
    paths = {path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}
    assert paths == {"/predict", "/v2", "/models"}  # not /metrics, not health
