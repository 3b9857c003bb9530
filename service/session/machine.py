"""The machine and the device that this process measures and runs on."""

import onnxruntime

from models.machine import Machine, available_cpus, cpu_name
from service.session.devices import runtime
from service.session.plans import SelectedDevice


def this_machine(workers: int, selected: SelectedDevice | None = None) -> Machine:
    """Return the machine that a measurement made here depends on.

    Args:
        workers: Processes of the service.
        selected: Device that sessions run on; None: the CPU.
    """
    device = "cpu"
    if selected is not None and selected.device != "cpu":
        device = f"{selected.device} on {runtime().facts(selected.index).name}"
    return Machine(cpu_name(), available_cpus(), workers, device, onnxruntime.__version__)
