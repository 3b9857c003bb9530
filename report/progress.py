"""A progress bar on standard error, only where a terminal shows it."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from report.terminal import printable


class ProgressBar:
    """Shows how much of something is done, and what is left; a context manager.

    Args:
        title: Text before the bar.
        quiet: Draw nothing, even on a terminal.
        is_timed: Whether an estimate of the time left is shown after the bar.
    """

    def __init__(self, title: str = "", *, quiet: bool = False, is_timed: bool = False) -> None:
        console = Console(stderr=True)
        # Texts are foreign: no markup.
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            *([TimeRemainingColumn()] if is_timed else []),
        ]
        is_hidden = quiet or not console.is_terminal
        self._progress = Progress(*columns, console=console, disable=is_hidden)
        self._task = self._progress.add_task(printable(title), total=None, details="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: float, total: float | None, details: str = "") -> None:
        """Show how much of a total is done; None is an unknown total."""
        self._progress.update(self._task, completed=done, total=total, details=printable(details))

    def show_step(self, step: str, elapsed_s: float, total_s: float) -> None:
        """Show a step, seconds since its start and the seconds that it takes at most."""
        left = f"at most {max(0.0, total_s - elapsed_s):.0f} s left"
        self.show(min(elapsed_s, total_s), total_s, f"{left} {step}")
