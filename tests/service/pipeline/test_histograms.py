import numpy as np

from service.pipeline.histograms import INTERVAL_S, MAX_ROWS, Histograms, first_rows
from service.pipeline.job import Batch, Job
from service.pipeline.postprocess import not_finite
from service.session.outputs import Outputs
from tests.tiny import random_images, tiny_probabilities


def finished(rows_of_jobs: tuple[int, ...], started_at: float, seed: int = 0) -> Batch:
    """A batch of jobs of so many rows; each job gave all but its first row to it."""
    jobs, taken = [], []
    for number, rows in enumerate(rows_of_jobs):
        images = random_images(rows + 1, seed + number)
        jobs.append((Job(images, 1e9), 1, rows))
        taken.append(images[1:])
    batch = Batch(sum(rows_of_jobs), jobs, started_at)
    probabilities = tiny_probabilities(np.concatenate(taken)).astype(np.float32)
    batch.outputs = Outputs(probabilities, probabilities)
    return batch


def test_rows_are_those_that_were_run_and_no_more_than_the_bound() -> None:
    batch = finished((3, 10, 10), 0.0)
    rows = first_rows(batch, MAX_ROWS)
    assert len(rows) == MAX_ROWS == 16
    expected = [random_images(4, 0)[1:], random_images(11, 1)[1:], random_images(11, 2)[1:4]]
    np.testing.assert_array_equal(np.stack(rows), np.concatenate(expected))
    histograms = Histograms()
    histograms.observe(batch)
    assert histograms.rows == sum(histograms.classes.values()) == MAX_ROWS


def test_the_cost_is_bounded_by_the_clock_not_by_the_load() -> None:
    histograms = Histograms()
    for number in range(1000):
        histograms.observe(finished((1,), 5.0 + number * INTERVAL_S / 100))
    assert histograms.rows == 10
    histograms.clear()
    assert (histograms.rows, histograms.pixel_mean, histograms.entropy, histograms.classes) == (
        0,
        0,
        0,
        {},
    )
    histograms.observe(finished((1,), 5.0 + 11 * INTERVAL_S))
    assert histograms.rows == 1


def test_a_row_that_is_no_answer_is_not_sampled() -> None:
    """Every sum after it would be NaN, too."""
    batch, whole = finished((3,), 0.0), finished((3,), 0.0)
    assert batch.outputs is not None
    batch.outputs.probabilities[0] = np.nan
    batch.not_finite = not_finite(batch.outputs.probabilities)
    for threshold in (None, 0.0):
        histograms, expected = Histograms(threshold), Histograms(threshold)
        histograms.observe(batch)
        expected.observe(whole)
        assert (histograms.rows, histograms.abstained) == (2, 0)
        assert 0 < histograms.pixel_mean < expected.pixel_mean
        assert 0 < histograms.entropy < expected.entropy
        assert histograms.classes.total() == 2


def test_of_a_multi_label_model_every_label_counts_that_a_row_gets() -> None:
    batch = finished((3,), 0.0)
    assert batch.outputs is not None
    batch.outputs.probabilities[:] = [[0.5, 0.9, 0.1, 0.0], [0.4, 0.2, 0.0, 0.0], [1.0] * 4]
    histograms = Histograms(None, (0.5, 0.5, 0.2, 0.5))
    histograms.observe(batch)
    assert histograms.classes == {0: 2, 1: 2, 2: 1, 3: 1}
    assert histograms.rows == 3
    expected = -sum(p * np.log(p) for p in (0.5, 0.5, 0.9, 0.1, 0.1, 0.9, 0.4, 0.6, 0.2, 0.8))
    assert abs(histograms.entropy - expected) < 1e-6
