import math

import pytest
import torch

from training.errors import ConfigError
from training.losses import LOSSES, compute_loss

pytestmark = pytest.mark.training

# Softmax gives (0.8, 0.2) and (0.5, 0.5).
LOGITS_NK = torch.tensor([[math.log(4), 0.0], [1.0, 1.0]], dtype=torch.float64)
TARGETS_N = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_entropy", -(math.log(0.8) + math.log(0.5)) / 2),
        # Both classes of a row say the same: of two classes one is the other's negation.
        ("bce", -(math.log(0.8) + math.log(0.5)) / 2),
        ("mse", (0.2**2 + 0.2**2 + 0.5**2 + 0.5**2) / 4),
        ("cosine", ((1 - 0.8 / math.hypot(0.8, 0.2)) + (1 - 0.5 / math.hypot(0.5, 0.5))) / 2),
    ],
)
def test_values_are_those_on_paper(name: str, expected: float) -> None:
    assert compute_loss(name, LOGITS_NK, TARGETS_N).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_smooths_as_torch_does(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NK = torch.randn(8, 5, generator=generator)
    targets_N = torch.randint(0, 5, (8,), generator=generator)
    expected = torch.nn.functional.cross_entropy(logits_NK, targets_N, label_smoothing=smoothing)
    assert compute_loss("cross_entropy", logits_NK, targets_N, smoothing).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_smaller_for_a_better_answer_and_finite_for_the_worst(name: str) -> None:
    def loss(logit: float) -> float:
        return compute_loss(name, torch.tensor([[logit, 0.0, 0.0]]), torch.tensor([0])).item()

    values = [loss(logit) for logit in (-200.0, -2.0, 0.0, 2.0, 200.0)]
    assert values == sorted(values, reverse=True)
    assert all(math.isfinite(value) for value in values)
    assert values[-1] == pytest.approx(0, abs=1e-6)
    worst = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    compute_loss(name, worst, torch.tensor([0])).backward()
    assert worst.grad is not None
    assert worst.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_narrow_types_are_widened(name: str) -> None:
    logits_NK = LOGITS_NK.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = compute_loss(name, logits_NK, TARGETS_N)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(compute_loss(name, LOGITS_NK, TARGETS_N).item(), abs=0.01)


def test_an_unknown_name_is_listed() -> None:
    expected = "loss: expected one of bce, cosine, cross_entropy, mse, got 'hinge'"
    with pytest.raises(ConfigError, match=expected):
        compute_loss("hinge", LOGITS_NK, TARGETS_N)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_of_classes_are_a_weighted_mean(smoothing: float) -> None:
    weights_K = torch.tensor([1.0, 3.0], dtype=torch.float64)
    each = [
        compute_loss("mse", LOGITS_NK[[row]], TARGETS_N[[row]], smoothing).item() for row in (0, 1)
    ]
    weighted = compute_loss("mse", LOGITS_NK, TARGETS_N, smoothing, weights_K)
    assert weighted.item() == pytest.approx((each[0] + 3 * each[1]) / 4)
    if not smoothing:
        expected = torch.nn.functional.cross_entropy(LOGITS_NK, TARGETS_N, weights_K)
        got = compute_loss("cross_entropy", LOGITS_NK, TARGETS_N, 0.0, weights_K)
        assert got.item() == pytest.approx(expected.item())
