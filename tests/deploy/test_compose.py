"""The Compose file, read by docker-compose: Docker's own program, of Debian."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import program, run
from tests.server import ROOT

COMPOSE = ROOT / "deploy" / "compose.yaml"


def read(path: Path, **variables: Any) -> dict[str, Any]:
    """Return the file as docker-compose understands it, with every path made whole."""
    document: dict[str, Any] = yaml.safe_load(
        run("docker-compose", "--file", path, "config", **variables)
    )
    return document


def test_it_is_valid_and_every_folder_that_it_mounts_is_there() -> None:
    services = read(COMPOSE)["services"]
    assert set(services) == {"foveal", "prometheus", "grafana"}
    mounts = [mount for service in services.values() for mount in service["volumes"]]
    folders = [Path(mount.split(":")[0]) for mount in mounts if mount.startswith("/")]
    assert len(folders) == 4
    for folder in folders:
        assert folder.is_dir() and any(folder.iterdir()), folder


def test_a_mistake_is_found(tmp_path: Path) -> None:
    program("docker-compose")
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    with pytest.raises(AssertionError, match="Unsupported config option"):
        read(wrong)


def test_image_port_and_models_can_be_chosen(tmp_path: Path) -> None:
    foveal = read(COMPOSE, IMAGE="mine:2", PORT="8080", MODELS=str(tmp_path))["services"]["foveal"]
    assert foveal["image"] == "mine:2"
    assert "8080" in json.dumps(foveal["ports"][0])
    assert foveal["volumes"] == [f"{tmp_path}:/models:ro"]
    foveal = read(COMPOSE, MODELS=str(tmp_path), MODELS_MODE="rw")["services"]["foveal"]
    assert foveal["volumes"] == [f"{tmp_path}:/models:rw"]


def test_only_the_service_is_open_to_other_machines() -> None:
    for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items():
        is_open = [not port.startswith("127.0.0.1:") for port in service["ports"]]
        assert is_open == [name == "foveal", *[False] * (len(is_open) - 1)], name


def test_prometheus_reads_the_files_that_are_mounted() -> None:
    prometheus = yaml.safe_load(COMPOSE.read_text())["services"]["prometheus"]
    assert "./prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in prometheus["command"]
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    for rules in config["rule_files"]:
        assert (ROOT / "deploy" / "prometheus" / rules).is_file()
