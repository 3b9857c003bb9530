"""An amount of memory that a reader waits for and others give back."""

from threading import Condition


class Budget:
    """A bound on what is held at once; one thread takes, any thread gives back.

    Args:
        total: The bound, in any unit. More than that is handed out only while nothing else is held.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._is_closed = False
        self._changed = Condition()

    def take(self, amount: int) -> None:
        """Wait until an amount is free, or the budget is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._held or self._held + amount <= self._total
            )
            self._held += amount

    def give(self, amount: int) -> None:
        """Give an amount back."""
        with self._changed:
            self._held -= amount
            self._changed.notify()

    def close(self) -> None:
        """Wake the thread that waits; from now on, nothing does."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
