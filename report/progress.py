"""A progress bar over time, on standard error, only where a terminal shows it."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class TimeBar:
    """Shows the current step and how much of its time is left; a context manager.

    Args:
        quiet: Draw nothing, even on a terminal.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, left="")

    def __enter__(self) -> "TimeBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: str, elapsed_s: float, total_s: float) -> None:
        """Show a step, seconds since its start and the seconds that it takes at most."""
        self._progress.update(
            self._task,
            description=step,
            completed=min(elapsed_s, total_s),
            total=total_s,
            left=f"at most {max(0.0, total_s - elapsed_s):.0f} s left",
        )
