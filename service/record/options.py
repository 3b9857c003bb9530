"""From the settings to what is recorded, and where."""

from models.repository import ModelRepository
from service.record.recorder import Choice, Recorder
from service.record.writer import Bounds
from service.settings import Settings


def load_recorder(settings: Settings, repository: ModelRepository) -> Recorder:
    """Return the recorder of one process, with the shares that the repository has now.

    Raises:
        ArtifactError: Its settings cannot be read.
    """
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
    recorder.shares = repository.settings().records
    return recorder
