"""From the settings to what is recorded, and where."""

import contextlib

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.record.recorder import Choice, Recorder
from service.record.writer import Bounds
from service.settings import Settings


def load_recorder(settings: Settings, repository: ModelRepository) -> Recorder:
    """Return the recorder of one process, with the shares that the repository has now."""
    bounds = Bounds(
        settings.recording,
        int(settings.record_max_gib * (1 << 30)),
        settings.record_days,
        settings.workers,
        settings.record_exif,
        settings.record_keep,
    )
    is_uncertain = settings.record_keep == "uncertain"
    recorder = Recorder(Choice(settings.record, is_uncertain, settings.record_below), bounds)
    with contextlib.suppress(ArtifactError):  # the log has said it; a poll tells when it is mended
        recorder.shares = repository.settings().records
    return recorder
