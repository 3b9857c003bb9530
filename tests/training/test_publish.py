from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.errors import ParityError
from export.run import open_session
from training.datasets.sources import Dataset
from training.graph import ServedNetwork, export_onnx
from training.initial import untrained
from training.publish import BATCH_SIZES, prove
from training.recipes import resolve

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def make_served(squares: Squares) -> ServedNetwork:
    torch.manual_seed(0)
    config = resolve("digits", "cnn", Path("run"), widths=(8, 16), depth=1)
    return ServedNetwork(untrained(config, squares()), temperature=2.0)


@pytest.fixture
def served(squares: Squares) -> ServedNetwork:
    return make_served(squares)


@pytest.fixture(scope="module")
def content(squares: Squares) -> bytes:
    """The graph of ``served``."""
    exported: bytes = export_onnx(make_served(squares), (8, 8, 1)).SerializeToString()
    return exported


def test_the_proof_refuses_perturbed_weights(
    served: ServedNetwork, content: bytes, squares: Squares
) -> None:
    parity = prove(served, open_session(content).run, squares().train.images_NHWC)
    assert parity.batch_sizes == BATCH_SIZES
    assert parity.max_probability_difference <= 1e-5
    with torch.no_grad():
        next(served.parameters()).add_(1e-3)
    with pytest.raises(ParityError, match="expected probabilities within 1e-05"):
        prove(served, open_session(content).run, squares().train.images_NHWC)


def test_the_proof_refuses_not_a_number(
    served: ServedNetwork, content: bytes, squares: Squares
) -> None:
    served.temperature.fill_(float("nan"))
    with pytest.raises(ParityError, match="got inf"):
        prove(served, open_session(content).run, squares().train.images_NHWC)
