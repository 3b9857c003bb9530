import numpy as np
import pytest
from numpy.typing import NDArray

from service.pipeline.job import Batch, Job
from service.pipeline.postprocess import not_finite
from tests.tiny import random_images


def probabilities(rows: int = 6, classes: int = 10) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((rows, classes), np.float32)


def test_numbers_have_no_error() -> None:
    for values in (probabilities(), probabilities(0), probabilities() * np.float32(3e38)):
        assert not_finite(values) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_with_one_value_that_is_no_number_has_an_error(value: float) -> None:
    values = probabilities()
    values[2, 9] = values[4, 0] = value
    assert not_finite(values) == dict.fromkeys(
        (2, 4), f"probability: expected a number, got {np.float32(value)}"
    )


def test_a_job_finds_its_own_rows_in_the_batches_that_ran_them() -> None:
    job = Job(random_images(5), 1e9)
    first, second = Batch(4, [], 0.0), Batch(8, [], 0.0)
    job.parts = [(first, 1, 2), (second, 3, 3)]
    assert job.row_errors() == {}
    first.not_finite = {0: "another's", 2: "its second", 3: "another's"}
    second.not_finite = {2: "another's", 3: "its third", 5: "its last", 6: "another's"}
    assert job.row_errors() == {1: "its second", 2: "its third", 4: "its last"}
