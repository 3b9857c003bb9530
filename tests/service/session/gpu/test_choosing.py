"""A GPU's format, layout and buckets: chosen at the first start, kept for the next, all warm."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.artifact import Precision
from models.repository import ModelRepository
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from service.session import planning
from service.session import session as sessions
from service.session.formats import Choice, Tf32
from service.session.planning import DeviceOptions
from service.session.plans import Plan, SelectedDevice
from service.session.session import Session
from tests.service.session.gpu.stand_in import CPU
from tests.tiny import publish_tiny, random_images, tiny_logits

pytestmark = pytest.mark.usefixtures("device")

CUDA = SelectedDevice("cuda", 0, "cuda")
GAINS: dict[Precision, float] = {"fp16": 5.0, "int8": 3.0}
# Images/s of resnet50 at 64 rows on one H100, see test_formats.
RATES = {
    "fp32 nchw": 2950,
    "tf32 nchw": 5627,
    "tf32 nhwc": 6742,
    "fp16 nchw": 7994,
    "fp16 nhwc": 10200,
}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that sessions are opened under; runs take the times that were recorded."""
    found: list[Plan] = []

    def providers(plan: Plan, _stream: int) -> list[tuple[str, dict[str, str]]]:
        found.append(plan)
        return CPU

    def recorded(session: Session, images: Any, *_: object) -> float:
        return len(images) / RATES[f"{session.plan.format} {session.plan.layout}"]

    monkeypatch.setattr(sessions, "providers_of", providers)
    monkeypatch.setattr(planning, "best_of", recorded)
    monkeypatch.setattr(
        "service.session.machine.runtime",
        lambda: SimpleNamespace(facts=lambda _index: SimpleNamespace(name="a GPU")),
    )
    return found


def options(precision: Choice = "auto", tf32: Tf32 = "auto") -> LoadOptions:
    return LoadOptions(BatchLimits(8), precision=precision, device=DeviceOptions(CUDA, tf32=tf32))


def assert_answers(session: Any, gain: float) -> None:
    images = random_images(3)
    np.testing.assert_array_equal(session.run(images).logits, tiny_logits(images, gain))


def test_the_fastest_runs_and_the_next_start_opens_only_that(
    tmp_path: Path, plans: list[Plan], caplog: pytest.LogCaptureFixture
) -> None:
    publish_tiny(tmp_path, lower=GAINS)
    with caplog.at_level(logging.INFO):
        first = load(ModelRepository(tmp_path), "tiny", 1, options())
    tried = [f"{plan.format} {plan.layout}" for plan in plans]
    assert tried == [*RATES, "fp16 nhwc"]
    assert [plan.buckets for plan in plans[:-1]] == [(8,)] * len(RATES)
    assert {plan.binding for plan in plans[:-1]} == {"bound"}
    assert "fp32 nchw 2.71 ms" in caplog.text
    assert "fp16 nhwc 0.78 ms; fp16 nhwc runs" in caplog.text
    plan = first.session.plan
    assert (plan.format, plan.layout, plan.binding) == ("fp16", "nhwc", "graph")
    assert_answers(first.session, 5.0)

    del plans[:]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = load(ModelRepository(tmp_path), "tiny", 1, options())
    assert again.session.plan == plan
    (opened,) = plans
    assert opened.buckets == plan.buckets  # of those of the first start, only what paid
    assert "as measured before" in caplog.text
    assert again.full_batch_s == first.full_batch_s
    assert_answers(again.session, 5.0)

    del plans[:]  # other settings, other choices
    other = load(ModelRepository(tmp_path), "tiny", 1, options(tf32="off"))
    assert len(plans) == 4
    assert other.session.plan.format == "fp16"


@pytest.mark.parametrize(
    ("precision", "tf32", "tried", "expected"),
    [
        ("fp32", "auto", 1, "fp32 nchw"),  # exact, unless it is asked for otherwise
        ("fp32", "on", 3, "tf32 nhwc"),
        ("fp16", "off", 3, "fp16 nhwc"),
    ],
)
def test_a_precision_that_is_asked_for_has_only_its_layouts_measured(
    tmp_path: Path, plans: list[Plan], precision: Choice, tf32: Tf32, tried: int, expected: str
) -> None:
    publish_tiny(tmp_path, lower=GAINS)
    session = load(ModelRepository(tmp_path), "tiny", 1, options(precision, tf32)).session
    assert f"{session.plan.format} {session.plan.layout}" == expected
    assert len(plans) == tried
    assert_answers(session, 5.0 if precision == "fp16" else 1.0)


def test_a_version_without_the_file_answers_in_fp32_and_says_so(
    tmp_path: Path, plans: list[Plan], caplog: pytest.LogCaptureFixture
) -> None:
    publish_tiny(tmp_path)
    session = load(ModelRepository(tmp_path), "tiny", 1, options("fp16")).session
    assert (session.plan.format, len(plans)) == ("fp32", 1)
    assert "expected an fp16 file that passed its gate, got fp32" in caplog.text


def test_a_format_that_answers_otherwise_is_left_out(
    tmp_path: Path,
    plans: list[Plan],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that computes NHWC wrongly: golden images tell, before anything is measured."""
    publish_tiny(tmp_path, lower=GAINS)
    run = Session.run

    def wrong(session: Session, images: Any) -> Any:
        outputs = run(session, images)
        if session.plan.layout == "nhwc":
            return outputs._replace(probabilities=outputs.probabilities[:, ::-1])
        return outputs

    monkeypatch.setattr(Session, "run", wrong)
    session = load(ModelRepository(tmp_path), "tiny", 1, options()).session
    assert (session.plan.format, session.plan.layout) == ("fp16", "nchw")
    assert "tiny:1: fp16 nhwc cannot be used here: tiny:1: golden image" in caplog.text
    assert len(plans) == len(RATES) + 1


@pytest.mark.usefixtures("plans")
def test_what_was_kept_and_does_not_run_any_more_gives_way_to_fp32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(tmp_path, lower=GAINS)
    load(ModelRepository(tmp_path), "tiny", 1, options())

    def providers(plan: Plan, _stream: int) -> list[tuple[str, dict[str, str]]]:
        return CPU if plan.precision == "fp32" else [("NoExecutionProvider", {})]

    monkeypatch.setattr(sessions, "providers_of", providers)
    with pytest.warns(UserWarning, match="not in available provider names"):
        session = load(ModelRepository(tmp_path), "tiny", 1, options()).session
    assert session.plan.format == "fp32"
    assert "fp16 nhwc does not run here, fp32 nchw answers instead" in caplog.text
    assert_answers(session, 1.0)


class RecordedSession:
    """onnxruntime's session; remembers the batch size of each run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.ran: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        binding = self._session.io_binding()
        bind = binding.bind_input

        def bind_input(name: str, *rest: Any) -> None:
            binding.rows = rest[3][0]
            bind(name, *rest)

        binding.bind_input = bind_input
        return binding

    def run_with_iobinding(self, binding: Any, how: Any) -> None:
        self.ran.append(binding.rows)
        self._session.run_with_iobinding(binding, how)


def test_no_batch_size_runs_first_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN searches algorithms at the first run of a batch size: all of them are at the start."""
    opened: list[RecordedSession] = []
    open_session: Callable[..., Any] = sessions._open_session

    def recorded(*arguments: Any) -> RecordedSession:
        opened.append(RecordedSession(open_session(*arguments)))
        return opened[-1]

    monkeypatch.setattr(sessions, "_open_session", recorded)
    publish_tiny(tmp_path, lower=GAINS)
    device = DeviceOptions(CUDA, buckets=(1, 3, 8, 16))
    loaded = load(ModelRepository(tmp_path), "tiny", 1, LoadOptions(BatchLimits(16), device=device))
    session = loaded.session
    assert isinstance(session, Session)
    warm = set(opened[-1].ran)
    assert warm == {1, 3, 8, 16}
    del opened[-1].ran[:]
    for rows in (*range(1, 17), 40):
        images = random_images(rows, rows)
        np.testing.assert_array_equal(session.run(images).logits, tiny_logits(images))
        for slot in session.slots:
            if rows <= 16:
                outputs = session.run_slot(slot, images)
                np.testing.assert_array_equal(outputs.logits, tiny_logits(images))
    assert len(opened[-1].ran) == 16 * 3 + 3
    assert set(opened[-1].ran) == warm
    assert session.opening_s.keys() == {"onnxruntime", "search", "graphs"}
    assert min(session.opening_s.values()) > 0
