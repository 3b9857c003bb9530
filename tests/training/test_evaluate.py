import numpy as np
import pytest
import torch

from export.calibrate import fit_temperature
from export.figures import calibration_error, evaluate, softmax

pytestmark = pytest.mark.training


def test_accuracy_and_classes_by_hand() -> None:
    logits_NK = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [0, 9.0, 0]])
    figures = evaluate(softmax(logits_NK.numpy()), np.array([0, 1, 1, 1]))
    assert figures.images == 4
    assert figures.accuracy == 0.75
    assert list(figures.per_class) == [1.0, pytest.approx(2 / 3), None]


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.9, 0.9, 0.5, 1.0])
    is_right = np.array([True, False, True, True])
    # Bin of 0.9: |0.5 - 0.9| * 2, bin of 0.5: |1 - 0.5|, bin of 1.0: nothing; over 4 rows.
    assert calibration_error(confidence, is_right) == pytest.approx((0.8 + 0.5) / 4)


def test_calibration_error_of_honest_confidence_is_small() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.1, 1, 100_000)
    assert calibration_error(confidence, generator.random(100_000) < confidence) < 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    honest_NK = 2 * torch.randn(20_000, 5, generator=generator)
    targets_N = torch.multinomial(honest_NK.softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature((honest_NK * temperature).numpy(), targets_N.numpy()) == pytest.approx(
        temperature, rel=0.05
    )


def test_temperature_of_a_faultless_small_split_stays_finite() -> None:
    targets_N = torch.arange(20) % 4
    logits_NK = 3 * torch.nn.functional.one_hot(targets_N, 4).float()
    temperature = fit_temperature(logits_NK.numpy(), targets_N.numpy())
    confidence = float((logits_NK / temperature).softmax(dim=1).max())
    assert confidence == pytest.approx(21 / 22, abs=1e-3)
