"""The machine in one line, for the head of every report and results file."""

import os
import platform

from models.machine import cpu_name


def machine_line() -> str:
    """Return processor, number of cores and operating system."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}"
