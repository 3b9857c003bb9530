"""From the settings to how versions are loaded and controlled: device, buckets, bounds.

Finding the device may take seconds, as a graph is run on it; so it belongs to the load.
"""

from collections.abc import Callable
from pathlib import Path

from models.repository import ModelRepository
from service.errors import InferenceError
from service.metrics.meters import Meters
from service.pipeline.classifier import Classifier
from service.pipeline.limits import BatchLimits
from service.rollout.catalog import Catalog
from service.rollout.loading import LoadOptions
from service.rollout.model_control import ModelControl
from service.session.buckets import parse_buckets
from service.session.devices import select_device
from service.session.gpu.open_card import photographs_of
from service.session.planning import DeviceOptions
from service.session.plans import SelectedDevice
from service.settings import Settings


def load_options(settings: Settings, worker: int) -> LoadOptions:
    """Return the options of every version, the device found.

    Args:
        settings: The settings.
        worker: Number of the worker, from 0; workers are dealt to the GPUs in turn.
    """
    device = _device(settings, worker)
    return LoadOptions(
        BatchLimits(
            settings.max_batch_size,
            settings.max_wait_ms / 1000,
            settings.max_queue_delay_ms / 1000,
        ),
        settings.max_image_pixels,
        settings.threads,
        settings.workers,
        settings.precision,
        settings.instances,
        device,
        frozenset(settings.model_fields_set),
        has_brownout=settings.brownout != "off",
        photographs=photographs_of(device.selected, settings.gpu_decode, device.memory_bytes),
        is_polling=settings.reload_s > 0,
    )


def control_of(
    settings: Settings,
    options: LoadOptions,
    meters: Meters,
    catalog: Catalog,
    start: Callable[[Classifier], None],
) -> ModelControl:
    """Return the control of a catalog that was loaded by these settings and options."""
    return ModelControl(
        ModelRepository(settings.models),
        settings.loaded_versions,
        options,
        meters,
        catalog,
        start,
        token=settings.admin_token,
        workers=settings.workers,
        reload_s=settings.reload_s,
        default_model=settings.default_model,
    )


def _device(settings: Settings, worker: int) -> DeviceOptions:
    """Find the device; without it no model gets ready, and the reason is given for each."""
    selected, error = SelectedDevice(asked=settings.device), ""
    try:
        selected = select_device(settings.device, worker)
    except InferenceError as refusal:
        error = refusal.message
    cache = settings.engine_cache or Path.home() / ".cache/foveal/engines"
    return DeviceOptions(
        selected,
        error,
        parse_buckets(settings.buckets),
        settings.gpu_tf32,
        settings.gpu_memory_mib << 20,
        Path(cache),
    )
