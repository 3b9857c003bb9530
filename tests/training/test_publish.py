from collections.abc import Callable

import pytest
import torch

from export.errors import ParityError
from export.run import open_session
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.fit import untrained
from training.graph import ServedNetwork, export_onnx
from training.publish import BATCH_SIZES, prove

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


@pytest.fixture
def served(config: TrainConfig, squares: Squares) -> ServedNetwork:
    torch.manual_seed(0)
    return ServedNetwork(untrained(config, squares()), temperature=2.0)


def test_the_proof_refuses_perturbed_weights(served: ServedNetwork, squares: Squares) -> None:
    content = export_onnx(served, (8, 8, 1)).SerializeToString()
    parity = prove(served, open_session(content).run, squares().train.images_NHWC)
    assert parity.batch_sizes == BATCH_SIZES
    assert parity.max_probability_difference <= 1e-5
    with torch.no_grad():
        next(served.parameters()).add_(1e-3)
    with pytest.raises(ParityError, match="expected probabilities within 1e-05"):
        prove(served, open_session(content).run, squares().train.images_NHWC)


def test_the_proof_refuses_not_a_number(served: ServedNetwork, squares: Squares) -> None:
    content = export_onnx(served, (8, 8, 1)).SerializeToString()
    served.temperature.fill_(float("nan"))
    with pytest.raises(ParityError, match="got inf"):
        prove(served, open_session(content).run, squares().train.images_NHWC)
