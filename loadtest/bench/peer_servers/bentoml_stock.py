"""Stock BentoML: the documented batchable image API."""

from __future__ import annotations

import os

import bentoml
import model
from PIL import Image


@bentoml.service(
    workers=int(os.environ.get("PEER_WORKERS", "1")),
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
)
class Stock:
    """One batchable method; BentoML's adaptive batching does the rest."""

    @bentoml.api(
        batchable=True,
        max_batch_size=64,
        max_latency_ms=int(os.environ.get("PEER_MAX_LATENCY_MS", "60000")),
    )
    def predict(self, images: list[Image.Image]) -> list[int]:
        """Classify a batch."""
        return model.labels(model.rows([model.pixels(image) for image in images]))
