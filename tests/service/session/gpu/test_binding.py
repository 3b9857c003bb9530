"""Bound runs on the CPU's memory: the code that runs on a GPU, but for what only a GPU does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import InferenceError
from service.session.gpu.binding import BoundRuns
from service.session.gpu.memory import CpuMemory
from service.session.outputs import Outputs
from service.session.plans import Plan
from service.session.session import Session
from tests.tiny import random_images, tiny_logits, tiny_model, tiny_probabilities

MODEL = tiny_model().SerializeToString()
BUCKETS = (1, 2, 4, 8)
PLAN = Plan(binding="graph", buckets=BUCKETS)


def assert_closed_form(outputs: Outputs, images: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(outputs.logits, tiny_logits(images))
    np.testing.assert_allclose(outputs.probabilities, tiny_probabilities(images), atol=1e-6)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(MODEL, PLAN)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 99)), min_size=1, max_size=8))
def test_a_run_answers_for_its_own_rows_whatever_ran_before(
    session: Session, batches: list[tuple[int, int]]
) -> None:
    """Sizes of every bucket in any order, and more rows than the largest: nothing is stale."""
    for rows, seed in batches:
        images = random_images(rows, seed)
        before = images.copy()
        assert_closed_form(session.run(images), images)
        np.testing.assert_array_equal(images, before)


def test_slots_are_filled_staged_and_run_in_turns(session: Session) -> None:
    first, second = session.slots
    for seed in range(6):
        images, others = random_images(3, seed), random_images(5, seed + 100)
        first.images[:3] = images
        first.stage(first.images[:3])
        second.images[:5] = others
        second.stage(second.images[:5])
        assert_closed_form(session.run_slot(first, first.images[:3]), images)
        assert_closed_form(session.run_slot(second, second.images[:5]), others)


def test_a_batch_that_was_not_staged_is_uploaded(session: Session) -> None:
    slot = session.slots[0]
    for seed in range(3):
        images = random_images(4, seed)
        slot.images[:4] = images
        assert_closed_form(session.run_slot(slot, slot.images[:4]), images)


def test_a_staged_batch_does_not_answer_for_another(session: Session) -> None:
    slot = session.slots[0]
    slot.images[:2] = random_images(2, 1)
    slot.stage(slot.images[:2])
    images = random_images(2, 2)  # of a request that fills its batch alone: never copied before
    assert_closed_form(session.run_slot(slot, images), images)


def test_answers_stay_when_the_slot_runs_again(session: Session) -> None:
    slot = session.slots[0]
    images = random_images(4, 1)
    outputs = session.run_slot(slot, images)
    session.run_slot(slot, random_images(4, 2))
    assert_closed_form(outputs, images)


@pytest.mark.parametrize("rows", range(1, 9))
def test_a_row_has_the_same_logits_in_every_bucket(rows: int) -> None:
    images = random_images(8, 7)
    plain = Session(MODEL, Plan()).run(images)
    for bucket in BUCKETS:
        if bucket >= rows:
            bound = Session(MODEL, Plan(binding="bound", buckets=(bucket,)))
            outputs = bound.run(images[:rows])
            np.testing.assert_allclose(outputs.logits, plain.logits[:rows], rtol=0, atol=1e-5)
            assert bound.padded_rows == bucket - rows


def test_padding_is_counted() -> None:
    session = Session(MODEL, PLAN)
    assert session.padded_rows == 0  # warm-up is nobody's padding
    for rows in (1, 3, 5, 8, 9):
        session.run(random_images(rows))
    assert session.padded_rows == 0 + 1 + 3 + 0 + 0
    assert Session(MODEL, Plan()).padded_rows == 0


def test_buckets_are_chosen_among_the_plans() -> None:
    session = Session(MODEL, PLAN, choose=True)
    chosen = session.plan.buckets
    assert chosen[-1] == 8
    assert set(chosen) <= set(BUCKETS)
    for rows in range(1, 9):
        images = random_images(rows, rows)
        assert_closed_form(session.run(images), images)


def test_threads_take_turns_in_the_slot_for_all() -> None:
    session = Session(MODEL, PLAN)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for i in range(50):
            images = random_images(1 + i % 8, seed * 1000 + i)
            assert_closed_form(session.run(images), images)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, seed) for seed in range(4)]:
            done.result()


def test_a_graph_that_folds_its_rows_is_refused() -> None:
    model = tiny_model()
    fold = onnx.helper.make_node("ReduceSum", ["summed", "first"], ["logits"], keepdims=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "logits":
                node.output[i] = "summed"
    position = next(i for i, node in enumerate(model.graph.node) if "logits" in node.input)
    model.graph.node.insert(position, fold)
    session = Session(model.SerializeToString(), PLAN)  # on a GPU its warm-up would say so
    with pytest.raises(InferenceError, match=r"run of batch \(3, 8, 8, 1\) failed"):
        session.run(random_images(3))


def test_a_failed_run_names_the_shape_and_the_next_one_works(session: Session) -> None:
    with pytest.raises(InferenceError, match=r"run of batch \(3, 5, 5, 1\) failed"):
        session.run(np.zeros((3, 5, 5, 1), np.uint8))
    with pytest.raises(InferenceError, match=r"run of batch \(3, 1, 1, 1\) failed"):
        session.run(np.zeros((3, 1, 1, 1), np.uint8))  # numpy could stretch it to any row
    images = random_images(3)
    assert_closed_form(session.run(images), images)


class StuckMemory(CpuMemory):
    """Takes two uploads and no more, as a graph does that was captured on other buffers."""

    uploads = 0

    def upload(self, address: int, array: NDArray[np.generic], arrived: int) -> None:
        self.uploads += 1
        if self.uploads <= 2:
            super().upload(address, array, arrived)


def test_a_replay_that_answers_wrongly_is_refused() -> None:
    """Each bucket is checked at warm-up with two different inputs."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    with pytest.raises(InferenceError, match="graph of bucket 1: expected the answers of a plain"):
        for warm_up in BoundRuns(session, StuckMemory(), (1,), graphs=True).warm_ups():
            warm_up()
