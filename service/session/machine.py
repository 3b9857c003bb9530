"""The machine and the device that this process measures and runs on."""

import onnxruntime

from models.machine import Machine, available_cpus, cpu_name
from service.session.devices import runtime
from service.session.plans import FoundDevice


def this_machine(workers: int, found: FoundDevice | None = None) -> Machine:
    """Return the machine that a measurement made here depends on.

    Args:
        workers: Processes of the service.
        found: Device that sessions run on; None: the CPU.
    """
    device = "cpu"
    if found is not None and found.device != "cpu":
        device = f"{found.device} on {runtime().facts(found.index).name}"
    return Machine(cpu_name(), available_cpus(), workers, device, onnxruntime.__version__)
