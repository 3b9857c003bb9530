"""Which requests a canary takes."""

import pytest

from service.rollout.canary import Canary

KEYS = [b"request-%d" % i for i in range(10_000)]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_share_of_many_ids_is_the_fraction(fraction: float) -> None:
    canary = Canary(None, "tiny", fraction)
    taken = sum(map(canary.takes, KEYS))
    assert abs(taken / len(KEYS) - fraction) < 4 * (fraction / len(KEYS)) ** 0.5


def test_who_has_the_canary_keeps_it_as_the_share_grows() -> None:
    small, large = Canary(None, "tiny", 0.1), Canary(None, "tiny", 0.2)
    assert all(large.takes(key) for key in KEYS if small.takes(key))


def test_another_model_takes_other_ids() -> None:
    one, other = Canary(None, "tiny", 0.5), Canary(None, "other", 0.5)
    both = sum(one.takes(key) and other.takes(key) for key in KEYS)
    assert 0.2 < both / len(KEYS) < 0.3


def test_everything_is_taken_by_a_fraction_of_one() -> None:
    canary = Canary(None, "tiny", 1.0)
    assert all(map(canary.takes, [*KEYS, b""]))
