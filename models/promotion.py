"""The promotion of a version by evidence: its limits, its steps, and how far it is.

Part of ``repository.json``, so that every service that loads the repository knows it and a restart
goes on. The candidate gets a growing share of the requests as a canary until it is the served
version. Knows no counts and no decision: ``service.rollout.promotion`` decides.
"""

import dataclasses
import secrets
from dataclasses import dataclass, replace
from typing import Any, Literal

from models.fields import read_dataclass
from models.rollout import NO_ROLLOUT, Rollout, Share

State = Literal["running", "promoted", "fell back", "stopped"]
# The largest share of a canary: rows of the served version are left to compare with.
MOST_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Limits:
    """What refuses a candidate; None: not asked for. Shares are 0 to 1.

    Attributes:
        max_flips: Share of rows whose first label (or labels) differs from the served version's.
        min_accuracy: Share of rows that are right, by feedback.
        max_drop: Accuracy that it loses against the served version on the same rows, by feedback.
        p99_ms: 99th percentile of the time of its answers, milliseconds.
    """

    max_flips: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    p99_ms: float | None = None

    @property
    def needs_feedback(self) -> bool:
        """Whether nothing can be decided before somebody says what is right."""
        return self.min_accuracy is not None or self.max_drop is not None

    @property
    def needs_shadow(self) -> bool:
        """Whether the candidate must run rows that the served version answers."""
        return self.max_flips is not None or self.max_drop is not None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and when.

    Attributes:
        at_s: Seconds since 1970.
        share: Share of the requests from then on, 0 to 1.
        text: What happened, and why.
    """

    at_s: float
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion; every change makes a new value.

    Attributes:
        id: Tells it from other promotions of the model.
        version: The candidate.
        against: The version that serves, and serves again if the candidate falls back.
        limits: What the candidate must keep.
        shares: Share of the requests in each step, ascending, above 0 to below 1.
        shadow: Share of the served version's requests that the candidate runs unseen, 0 to 1.
        within_s: Seconds in which the evidence must suffice.
        step_s: Shortest time of a step, seconds.
        began_s: When it began, seconds since 1970; a pause moves it.
        step: Index of its step in ``shares``.
        step_began_s: When the step began.
        state: Whether it goes on, or how it ended.
        before: Counts of all steps before this one.
        passed: Limits that the evidence has shown to be kept.
        events: All that happened, the oldest first.
    """

    id: str
    version: int
    against: int
    limits: Limits
    shares: tuple[float, ...]
    shadow: float
    within_s: float
    step_s: float
    began_s: float
    step: int
    step_began_s: float
    state: State = "running"
    before: dict[str, float] = dataclasses.field(default_factory=dict)
    passed: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.state == "running"

    @property
    def share(self) -> float:
        """Return the share of the requests that the canary gets now."""
        return self.shares[self.step] if self.is_running else 0.0

    @property
    def is_last_step(self) -> bool:
        """Whether the next step is to serve."""
        return self.step + 1 == len(self.shares)

    @property
    def rollout(self) -> Rollout:
        """Return the candidate's shares of the requests now."""
        if not self.is_running:
            return NO_ROLLOUT
        shadow = Share(self.version, self.shadow) if self.shadow else None
        return Rollout(shadow, Share(self.version, self.share))

    @property
    def document(self) -> dict[str, Any]:
        """Return the JSON object that ``read_promotion`` reads."""
        return dataclasses.asdict(self)

    def grown(self, now_s: float, counts: dict[str, float], why: str) -> "Promotion":
        """Return it one step further.

        Args:
            now_s: Seconds since 1970.
            counts: All that was counted until now.
            why: For the event.
        """
        grown = replace(self, step=self.step + 1, step_began_s=now_s, before=counts)
        return grown._with_event(now_s, f"grows to {grown.share:.4g} of the requests: {why}")

    def ended(self, state: State, now_s: float, why: str) -> "Promotion":
        """Return it at its end.

        Args:
            state: How it ends.
            now_s: Seconds since 1970.
            why: For the event.
        """
        said = {"promoted": "is promoted", "fell back": "falls back"}.get(state, f"is {state}")
        return replace(self, state=state)._with_event(now_s, f"{said}: {why}")

    def resumed(self, now_s: float) -> "Promotion":
        """Return it going on where it was stopped; the pause is not counted.

        Raises:
            ValueError: It was not stopped.
        """
        if self.state != "stopped":
            raise ValueError(f"expected a promotion that was stopped, got one that {self.state}")
        pause_s = max(0.0, now_s - self.events[-1].at_s)
        again = replace(self, state="running", began_s=self.began_s + pause_s, step_began_s=now_s)
        return again._with_event(now_s, f"goes on with {again.share:.4g} of the requests")

    def _with_event(self, now_s: float, text: str) -> "Promotion":
        return replace(self, events=(*self.events, Event(now_s, self.share, text)))


def new_promotion(  # noqa: PLR0913 - every field of it is the caller's choice
    version: int,
    against: int,
    limits: Limits,
    *,
    first_share: float,
    shadow: float,
    within_s: float,
    step_s: float | None,
    now_s: float,
) -> Promotion:
    """Return a promotion at its beginning.

    Args:
        version: The candidate.
        against: The version that serves.
        limits: At least one.
        first_share: Share of the requests at first, above 0 to ``MOST_SHARE``; each step doubles
            it.
        shadow: Share of the served version's requests that the candidate runs, too; ignored where
            no limit needs it.
        within_s: Seconds in which the evidence must suffice.
        step_s: Shortest time of a step, seconds; None: all steps take half of ``within_s``.
        now_s: Seconds since 1970.
    """
    shares = [first_share]
    while 2 * shares[-1] <= MOST_SHARE:
        shares.append(2 * shares[-1])
    begun = Promotion(
        secrets.token_hex(4),
        version,
        against,
        limits,
        tuple(shares),
        shadow if limits.needs_shadow else 0.0,
        within_s,
        within_s / 2 / len(shares) if step_s is None else step_s,
        now_s,
        0,
        now_s,
    )
    return begun._with_event(now_s, f"begins with {first_share:.4g} of the requests")


def read_promotion(document: Any) -> Promotion:
    """Read what ``Promotion.document`` wrote.

    Raises:
        ValueError: The document has another form.
    """
    promotion = read_dataclass(Promotion, document, "promotions")
    shares, limits = promotion.shares, promotion.limits
    for name in ("max_flips", "min_accuracy", "max_drop"):
        value = getattr(limits, name)
        if value is not None and not 0 < value < 1:
            raise ValueError(f"promotions.limits.{name}: expected above 0 and below 1, got {value}")
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"promotions.shares: expected shares above 0 and below 1, got {shares}")
    if not 0 <= promotion.step < len(shares):
        raise ValueError(f"promotions.step: expected 0 to {len(shares) - 1}, got {promotion.step}")
    if not 0 <= promotion.shadow <= 1:
        raise ValueError(f"promotions.shadow: expected 0 to 1, got {promotion.shadow}")
    return promotion
