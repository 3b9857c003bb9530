"""A candidate is promoted by evidence, or falls back: two workers, replicas, deciders that die."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from models.promote import begin
from models.promotion import Limits, Promotion, new_promotion
from models.repository import ModelRepository
from tests.guarded import ADMIN, until
from tests.server import START_S, RunningServer, Wire, assert_error, post, running_server
from tests.shell import Shell
from tests.tiny import publish_tiny, random_images

pytestmark = pytest.mark.e2e

WORKERS = 2
PNGS = [encode_png(image) for image in random_images(40, seed=51)]
WAIT_S = 90.0
# The same labels, and the opposite ones.
SAME, OPPOSITE = 2.0, -1.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promotion") / "models"
    publish_tiny(root)
    ModelRepository(root).set_default("tiny")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(
        root, root.parent, workers=WORKERS, reload_s=0.2, admin_token=ADMIN
    ) as running:
        until(lambda: running.log.count("ready after") == WORKERS, "two workers", START_S)
        yield running


def ask(*servers: RunningServer, name: str) -> set[int]:
    """Ask each server on connections to all its workers; return who answered, 0 for an error."""
    versions = set()
    for server in servers:
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(Wire(server)) for _ in range(4)]
            for wire in wires:
                wire.send(*(post(f"/models/{name}/predict", png) for png in PNGS))
            for wire in wires:
                versions |= {wire.answer().json().get("version", 0) for _ in PNGS}
    return versions


def publish_pair(root: Path, name: str, gain: float) -> ModelRepository:
    """Version 1 serves, version 2 is the candidate."""
    publish_tiny(root, name)
    publish_tiny(root, name, gain=gain)
    repository = ModelRepository(root)
    repository.set_default(name, 1)
    return repository


def promote(shell: Shell, root: Path, name: str, options: str) -> str:
    said = shell("models", "promote", name, 2, *options.split(), models=root)
    assert said.code == 0, said
    return said.out


def promotion_of(repository: ModelRepository, name: str) -> Promotion:
    return repository.settings().promotions[name]


def answers_only(server: RunningServer, name: str, version: int) -> None:
    until(lambda: ask(server, name=name) == {version}, f"only {name}:{version} answers", WAIT_S)


def until_logged(server: RunningServer, line: str) -> None:
    """Wait until a line is in the log: once, whatever the number of workers."""
    until(lambda: line in server.log, line, WAIT_S)
    assert server.log.count(line) == 1


def test_a_good_candidate_serves_in_the_end(
    server: RunningServer, root: Path, shell: Shell
) -> None:
    repository = publish_pair(root, "good", SAME)
    answers_only(server, "good", 1)
    options = "--canary 0.3 --max-flips 20% --p99-ms 30000 --shadow 1 --step 1s --within 10m"
    assert "good:2 gets 0.3, 0.6 of the requests" in promote(shell, root, "good", options)

    def is_over() -> bool:
        assert ask(server, name="good") <= {1, 2}
        return not promotion_of(repository, "good").is_running

    until(is_over, "the promotion ends", WAIT_S)
    promotion = promotion_of(repository, "good")
    assert promotion.state == "promoted", promotion.events
    assert [event.share for event in promotion.events] == [0.3, 0.6, 0.0]
    assert repository.resolve("good") == ("good", 2)
    assert "good" not in repository.settings().rollouts
    answers_only(server, "good", 2)
    for words in ("begins with 0.3", "grows to 0.6 of the requests: 0 flips in", "is promoted: 0"):
        until_logged(server, f"promotion of good:2 {words}")
    labels = {"model": "good", "version": "2"}
    steps = "foveal_promotion_steps_total"
    until(lambda: server.metric(steps, outcome="promoted", **labels) == 1, "it is counted", WAIT_S)
    assert server.metric(steps, outcome="grown", **labels) == 1
    assert server.metric(steps, outcome="fell_back", **labels) == 0
    assert server.metric("foveal_promotion_share", **labels) == 0
    shown = shell("models", "show", "good", models=root)
    assert "of version 2 in place of 1: promoted" in shown.out
    assert "UTC, grows to 0.6 of the requests: 0 flips in" in shown.out
    assert not (root / ".promotions/good").exists()


def test_a_bad_candidate_falls_back_at_once(
    server: RunningServer, root: Path, shell: Shell
) -> None:
    repository = publish_pair(root, "bad", OPPOSITE)
    answers_only(server, "bad", 1)
    promote(shell, root, "bad", "--canary 0.3 --max-flips 5% --shadow 1 --step 10m --within 1h")

    def is_over() -> bool:
        ask(server, name="bad")
        return not promotion_of(repository, "bad").is_running

    until(is_over, "the promotion ends", WAIT_S)
    promotion = promotion_of(repository, "bad")
    assert promotion.state == "fell back" and len(promotion.events) == 2, promotion.events
    assert "flips in" in promotion.events[-1].text and "limit 0.05" in promotion.events[-1].text
    assert repository.resolve("bad") == ("bad", 1)
    answers_only(server, "bad", 1)
    until_logged(server, "promotion of bad:2 falls back: ")
    steps = "foveal_promotion_steps_total"
    assert server.metric(steps, outcome="fell_back", model="bad", version="2") == 1


def test_a_candidate_that_cannot_be_loaded_falls_back(
    server: RunningServer, root: Path, shell: Shell
) -> None:
    repository = publish_pair(root, "broken", SAME)
    (root / "broken/2/model.onnx").write_bytes(b"no model")
    promote(shell, root, "broken", "--p99-ms 30000 --within 1h")
    until(lambda: not promotion_of(repository, "broken").is_running, "it falls back", WAIT_S)
    promotion = promotion_of(repository, "broken")
    assert promotion.state == "fell back"
    assert "falls back: it cannot be loaded: broken/2/model.onnx" in promotion.events[-1].text
    answers_only(server, "broken", 1)


def test_commands_and_routes_keep_off_while_it_goes_on(
    server: RunningServer, root: Path, shell: Shell
) -> None:
    publish_pair(root, "held", SAME)
    answers_only(server, "held", 1)
    promote(shell, root, "held", "--p99-ms 30000 --step 10m --within 1h")
    until(lambda: ask(server, name="held") == {1, 2}, "the canary answers", WAIT_S)
    bearer = {"Authorization": f"Bearer {ADMIN}"}
    said = httpx.put(f"{server.url}/models/held/traffic", headers=bearer, json={})
    assert_error(said, 400, "held:2 is being promoted, which sets these shares; stop it first")
    until_logged(server, "promotion of held:2 ")  # what begins and stops between two looks is not
    assert shell("models", "promote", "held", "--stop", models=root).code == 0
    answers_only(server, "held", 1)
    until_logged(server, "promotion of held:2 is stopped: by command")
    shown = shell("models", "show", "held:2", models=root).out
    assert "promotion  of version 2 in place of 1: stopped" in shown
    assert "undecided: 0 of " in shown, "what was counted is kept"
    assert shell("models", "promote", "held", "--resume", models=root).code == 0
    until(lambda: ask(server, name="held") == {1, 2}, "the canary answers again", WAIT_S)
    assert shell("models", "rollback", "held", models=root).code == 1
    publish_tiny(root, "held", gain=3.0)
    assert shell("models", "default", "held", 3, models=root).code == 0
    answers_only(server, "held", 3)
    until_logged(server, "promotion of held:2 is stopped: the served version was set by command")


def decider(root: Path) -> str:
    """Return which replica decides."""
    return str(json.loads((root / ".promotions/.lease.json").read_text())["holder"])


def counting_worker(server: RunningServer) -> tuple[psutil.Process, str] | None:
    """Return the worker that counts for its service, and the folder whose lock it holds."""
    for worker in server.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            for file in worker.open_files():
                if file.path.endswith("promotion.lock"):
                    return worker, Path(file.path).parent.name
    return None


@pytest.mark.thorough
def test_others_go_on_when_who_decides_is_killed(tmp_path: Path) -> None:
    """Of two replicas: first a worker, whose place another one takes, then all of that service."""
    root = tmp_path / "models"
    repository = publish_pair(root, "shared", SAME)
    with contextlib.ExitStack() as stack:
        replicas = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            folder.mkdir()
            replica = running_server(root, folder, workers=WORKERS, reload_s=0.2)
            replicas.append(stack.enter_context(replica))
        limits = Limits(max_flips=0.2)
        promotion = new_promotion(
            2, 1, limits, first_share=0.1, shadow=1, within_s=600, step_s=1, now_s=time.time()
        )
        begin(repository, "shared", promotion)
        left = list(replicas)

        def has_step(step: int) -> bool:
            ask(*left, name="shared")
            return promotion_of(repository, "shared").step >= step

        until(lambda: has_step(1), "it grows", WAIT_S)
        counts = [json.loads(path.read_text()) for path in (root / ".promotions").rglob("*-*.json")]
        assert len(counts) == 2 and all(each["now"]["agreed"] > 0 for each in counts)
        holder = decider(root)
        found = {counting_worker(each): each for each in replicas}
        [who] = [each for each in found if each is not None and holder.endswith(each[1])]
        deciding, worker = found[who], who[0]
        worker.kill()
        until(lambda: has_step(2), "it grows without the worker that decided", WAIT_S)
        assert decider(root) == holder
        another = counting_worker(deciding)
        assert another is not None and another[0] != worker
        deciding.process.send_signal(signal.SIGKILL)
        left.remove(deciding)
        until(lambda: has_step(3), "it grows without the replica that decided", WAIT_S)
        assert decider(root) != holder
        until(
            lambda: has_step(3) and not promotion_of(repository, "shared").is_running, "end", WAIT_S
        )
        assert promotion_of(repository, "shared").state == "promoted"
        assert repository.resolve("shared") == ("shared", 2)
        answers_only(left[0], "shared", 2)
