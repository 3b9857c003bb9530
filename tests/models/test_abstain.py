import numpy as np

from models.abstain import is_answered


def test_a_probability_that_reaches_the_threshold_is_answered() -> None:
    confidence = np.array([0.1, 0.3, 0.30000001, 0.9], np.float32)
    assert is_answered(confidence, 0.3).tolist() == [False, True, True, True]
    assert is_answered(confidence, float(np.float32(0.9))).tolist() == [False] * 3 + [True]


def test_no_number_is_no_answer() -> None:
    assert is_answered(np.array([np.nan, 1.0], np.float32), 0.0).tolist() == [False, True]
    assert not is_answered(np.asarray(np.nan, np.float32), 0.5)
