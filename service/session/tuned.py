"""Which bounds a version is served under: what was set explicitly, then its plan, then defaults.

A plan that was made for other bytes or another machine is not followed, and one that cannot be read
is not fatal: the log says so once a load. Knows no onnxruntime sessions.
"""

import logging
from dataclasses import replace

import onnxruntime

from models.artifact import ArtifactError, ModelArtifact
from models.machine import Machine, available_cpus, cpu_name
from models.repository import ModelRepository
from models.tuned import TunedPlan, read_plan
from service.pipeline.limits import ServingLimits
from service.session.devices import FoundDevice, runtime

logger = logging.getLogger("foveal.tuned")


def this_machine(workers: int, found: FoundDevice | None = None) -> Machine:
    """Return what a measurement here depends on.

    Args:
        workers: Processes of the service.
        found: Where sessions run; None: the CPU.
    """
    device = "cpu"
    if found is not None and found.device != "cpu":
        device = f"{found.device} on {runtime().facts(found.index).name}"
    return Machine(cpu_name(), available_cpus(), workers, device, onnxruntime.__version__)


def follow_plan(
    repository: ModelRepository, artifact: ModelArtifact, limits: ServingLimits
) -> ServingLimits:
    """Return the limits of one version: its plan's where it has one for here, and none was set.

    Args:
        repository: Where the version lies.
        artifact: The version.
        limits: What was set, ``explicit`` or by default.
    """
    try:
        plan = read_plan(repository, artifact.name, artifact.version)
    except ArtifactError as error:
        logger.warning("%s is served without a plan: %s", artifact.reference, error)
        return limits
    if plan is None:
        return limits
    why = plan.mismatch(artifact, this_machine(limits.workers, limits.device.found))
    if why is not None:
        logger.warning("%s is served without its plan: %s; tune it again", artifact.reference, why)
        return limits
    return _merge(limits, plan)


def _merge(limits: ServingLimits, plan: TunedPlan) -> ServingLimits:
    def chosen(name: str) -> bool:
        return name not in limits.explicit

    batch = limits.batch
    if chosen("max_batch_size"):
        batch = replace(batch, max_batch_size=plan.max_batch_size)
    if chosen("max_queue_delay_ms"):
        batch = replace(batch, max_queue_delay_s=plan.max_queue_delay_ms / 1000)
    device = limits.device
    if chosen("buckets") and plan.buckets:
        device = replace(device, buckets=plan.buckets)
    return replace(
        limits,
        batch=batch,
        device=device,
        precision=plan.precision if chosen("precision") else limits.precision,
        threads=plan.threads if chosen("threads") else limits.threads,
        instances=plan.instances if chosen("instances") else limits.instances,
        tuned=plan,
    )
