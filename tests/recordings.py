"""Recordings made as the service makes them, without one: by the recorder's own writer."""

import time
from collections.abc import Sequence
from pathlib import Path

from models.repository import ModelRepository
from scoring.local import LocalModel
from service.record.asked import Asked
from service.record.writer import Bounds, Writer

# A moment in 2023; rows follow each other by ``GAP_S``.
BEGAN_S = 1_700_000_000.0
GAP_S = 0.01


def load(root: Path, reference: str = "tiny") -> LocalModel:
    return LocalModel.load(ModelRepository(root), reference, 1)


def ask(model: LocalModel, images: Sequence[bytes], id_: str = "a", **more: object) -> Asked:
    """One request and its answer, run in one batch."""
    probabilities_NK = model.run([model.decode(image) for image in images])
    values: dict[str, object] = {
        "precision": "fp32",
        "queue_ms": 0.25,
        "run_ms": 1.5,
        "batch_rows": len(images),
    } | more
    return Asked(
        model.artifact,
        values.pop("time", BEGAN_S),  # type: ignore[arg-type]
        id_,
        "predict",
        200,
        rows=len(images),
        images=images,
        probabilities_NK=probabilities_NK,
        **values,  # type: ignore[arg-type]
    )


def write(folder: Path, asked: Sequence[Asked], **bounds: object) -> None:
    """Write requests to a recording, all in one shard."""
    days = (time.time() - BEGAN_S) / 86_400 + 7
    values: dict[str, object] = {"most_bytes": 1 << 30, "days": days} | bounds
    writer = Writer(Bounds(folder, **values))  # type: ignore[arg-type]
    for each in asked:
        writer.put(each, None)
    writer.close(60)


def record(folder: Path, model: LocalModel, images: Sequence[bytes]) -> list[str]:
    """Record one request for each image; return their ids."""
    ids = [f"id-{number}" for number in range(len(images))]
    asked = [
        ask(model, [image], id_, time=BEGAN_S + number * GAP_S)
        for number, (id_, image) in enumerate(zip(ids, images, strict=True))
    ]
    write(folder, asked)
    return ids
