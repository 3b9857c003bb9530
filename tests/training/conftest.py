import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import numpy as np
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from training.config import TrainConfig
    from training.datasets.sources import Dataset
    from training.datasets.splits import Split
    from training.recipes import resolve

    @pytest.fixture(scope="session", autouse=True)
    def one_thread() -> None:
        """Tiny tensors: threads that wait for each other on busy cores cost many times the work."""
        torch.set_num_threads(1)

    @pytest.fixture(scope="session", autouse=True)
    def exporter_functions() -> Iterator[None]:
        """Let torch's exporter parse its library of functions once, not for every graph."""
        parse = ONNXRegistry.from_torchlib
        once = staticmethod(functools.cache(parse))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ONNXRegistry, "from_torchlib", once)
            yield

    @pytest.fixture
    def config(tmp_path: Path) -> TrainConfig:
        """A run that takes about a second."""
        return resolve(
            "digits", "cnn", tmp_path / "run", widths=(8, 16), depth=1, epochs=2, dropout=0.0
        )

    @pytest.fixture(scope="session")
    def squares() -> Callable[..., Dataset]:
        """Make a dataset whose class is the corner that is bright: a network must get it right."""

        def make(channels: int = 1, side: int = 8, rows: int = 64) -> Dataset:
            generator = np.random.default_rng(0)

            def split(count: int) -> Split:
                targets_N = np.arange(count) % 4
                images = generator.integers(0, 40, (count, side, side, channels), dtype=np.uint8)
                half = side // 2
                for image, target in zip(images, targets_N, strict=True):
                    y, x = half * (target // 2), half * (target % 2)
                    image[y : y + half, x : x + half] += 200
                return Split(images, targets_N.astype(np.int64))

            labels = ("top left", "top right", "bottom left", "bottom right")
            return Dataset("squares", labels, split(rows), split(16), split(16), "0" * 64)

        return make
