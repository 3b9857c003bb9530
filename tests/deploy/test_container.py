"""The image, built and run for real by podman: what is in it, how it answers, how it stops."""

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.serving import free_port
from tests.deploy.podman import IMAGE, RUNTIME, build, code, configure, inspect, podman
from tests.deploy.suite import ANSWERS, STOPS, run_suite
from tests.places import CONTAINER, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]
READY_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    configure(tmp_path_factory.mktemp("podman"))
    reason = build()
    if reason:
        pytest.skip(reason)
    return inspect()


@pytest.fixture
def running() -> Iterator[tuple[str, str]]:
    """A container, locked down; its name and address."""
    name, port = "foveal-test", free_port()
    podman("run", "--detach", "--name", name, *CONTAINER, f"--publish=127.0.0.1:{port}:3000", IMAGE)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + READY_S
        while not is_ready(url):
            assert time.monotonic() < deadline, podman("logs", name)
            time.sleep(0.05)
        yield name, url
    finally:
        podman("rm", "--force", "--time", "40", name)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def python(program: str) -> str:
    """Run a program in the image."""
    words = ["run", "--rm", *CONTAINER, "--entrypoint", "python3", IMAGE, "-c", program]
    return podman(*words)


def test_it_is_small(image: dict[str, int]) -> None:
    assert image["Size"] < 600e6


def test_it_runs_as_nobody_without_a_shell(image: dict[str, dict[str, object]]) -> None:
    config = image["Config"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", str(config["User"]))
    assert config["Entrypoint"] == ["python3", "/app/foveal.py"]
    assert config["Cmd"] == ["serve"]
    assert "FOVEAL_HOST=0.0.0.0" in list(config["Env"])  # type: ignore[call-overload]
    health = json.loads(podman("image", "inspect", IMAGE, "--format", "{{json .HealthCheck}}"))
    assert health["Test"][:2] == ["CMD", "python3"]
    if not code("image", "exists", RUNTIME):
        assert (
            python("import shutil; print(shutil.which('sh'), shutil.which('pip'))") == "None None"
        )


def test_its_labels_name_the_source_and_the_models(image: dict[str, dict[str, str]]) -> None:
    labels = image["Labels"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == head
    models = {
        f"foveal.model.{path.parts[-3]}.{path.parts[-2]}": path
        for path in (ROOT / "models").glob("*/*/model.json")
    }
    assert {name for name in labels if name.startswith("foveal.model.")} == set(models)
    for name, path in models.items():
        assert labels[name] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_it_holds_the_exact_versions_and_says_from_which_wheels() -> None:
    lines = python("print(open('/app/packages/installed.txt').read())").split("\n")
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    wanted = (ROOT / "deploy/requirements.txt").read_text().lower().splitlines()[1:]
    plain = {line.split(" ")[0].replace("_", "-") for line in lines}
    assert plain == {line.replace("_", "-") for line in wanted}


def test_it_keeps_nothing_of_the_machine_that_built_it(image: dict[str, object]) -> None:
    program = (
        "import os\nfrom pathlib import Path\n"
        "print([str(p) for p in (Path('/etc/pip.conf'), Path('/run/secrets/ca.crt'),"
        " Path('/run/secrets/pip.conf'), Path('/build')) if p.exists()],"
        " [str(p) for p in Path('/app/packages').glob('*/direct_url.json')],"
        " sorted(n for n in os.environ if n.startswith(('PIP_', 'SSL_', 'UV_'))))"
    )
    assert python(program) == "[] [] []"
    assert "://" not in json.dumps(image["History"])


def test_the_suite_passes_against_it(tmp_path: Path) -> None:
    """With a root that cannot be written, no capabilities and a stranger's user id."""
    assert run_suite(f"image:{IMAGE}", tmp_path, *ANSWERS, *STOPS) > 300


def test_its_memory_is_enough_for_the_costly_part_of_the_corpus(tmp_path: Path) -> None:
    assert run_suite(f"image:{IMAGE}", tmp_path, "tests/hostile/test_small_memory.py") == 1


def test_health_and_stop(running: tuple[str, str]) -> None:
    name, url = running
    assert code("healthcheck", "run", name) == 0
    golden = ROOT / "models/fashion-cnn/2/golden/0.png"
    answer = httpx.post(f"{url}/predict?top=1", content=golden.read_bytes()).json()
    assert answer["results"][0]["predictions"][0]["label"] == "Ankle boot"
    podman("stop", "--time", "40", name)
    assert podman("inspect", name, "--format", "{{.State.ExitCode}}") == "0"


def test_its_command_line_works() -> None:
    words = ["run", "--rm", *CONTAINER, IMAGE]
    assert "fashion-cnn" in podman(*words, "models", "list")
    refused = subprocess.run(
        ["podman", *words, "train", "--dataset", "digits", "--network", "cnn", "--run", "/tmp/r"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1] == (
        "foveal: expected the package training, got none: a Bento and an image hold only what "
        "serves; run this command from a checkout"
    )
