"""Wait for a program that runs a user's model, within a time, and show on a terminal how far it is.

Nothing is shown of a program that ends at once, and nothing where standard error is no terminal.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from report.progress import ProgressBar

# Until it is shown, and between two looks at how far it is.
_STEP_S = 0.5

# What is done, of how much (None: unknown), and the step.
Progress = tuple[float, float | None, str]


def run_watched(
    command: Sequence[object],
    limit_s: float,
    title: str,
    look: Callable[[], Progress],
    **options: Any,
) -> tuple[int, str]:
    """Run a program to its end.

    Args:
        command: Its words.
        limit_s: Seconds after which it is killed.
        title: Text before the bar.
        look: Returns how far it is; called some times a second at most.
        options: Of ``subprocess.Popen``.

    Returns:
        Its exit code, and its standard error, empty if the options send that elsewhere.

    Raises:
        subprocess.TimeoutExpired: It did not end in time.
        OSError: It cannot be started.
    """
    ends = time.monotonic() + limit_s
    words = list(map(str, command))
    with ExitStack() as shown, subprocess.Popen(words, text=True, **options) as process:
        bar: ProgressBar | None = None
        try:
            while True:
                left_s = ends - time.monotonic()
                try:
                    _, said = process.communicate(timeout=max(0.0, min(_STEP_S, left_s)))
                except subprocess.TimeoutExpired:
                    if left_s <= _STEP_S:
                        raise
                    bar = bar or shown.enter_context(ProgressBar(title))
                    bar.show(*look())
                else:
                    return process.returncode, said or ""
        except BaseException:
            process.kill()
            raise
