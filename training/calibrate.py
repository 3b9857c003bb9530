"""Fit the temperature that calibrates a network's probabilities.

Guo et al. 2017, "On Calibration of Modern Neural Networks": one number, fitted on the validation
split, that divides every logit; labels cannot change. Legend: N rows, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Far beyond what a trained network needs; a degenerate one would overflow without these limits.
_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits_NK: Tensor, targets_N: Tensor) -> float:
    """Return the temperature with the smallest negative log-likelihood.

    The targets are softened as in Platt 1999 (the right class gets (N + 1) / (N + 2)): with a small
    split and no mistake in it, the likelihood alone is best at infinite confidence.

    Args:
        logits_NK: float32 [N, K], of the validation split.
        targets_N: int64 [N].

    Returns:
        The temperature, 0.05 to 20, rounded to float32.
    """
    rows, classes = logits_NK.shape
    right = (rows + 1) / (rows + 2)
    wanted_NK = torch.full((rows, classes), (1 - right) / (classes - 1), dtype=torch.float64)
    wanted_NK[torch.arange(rows), targets_N] = right
    logits64_NK = logits_NK.detach().double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(logits64_NK / log_temperature.exp(), wanted_NK)
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # the same
    temperature = log_temperature.detach().exp().clamp(_LOWEST, _HIGHEST)
    return float(temperature.float())
