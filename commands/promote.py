"""Promote a version by evidence: ``foveal models promote``."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository

if TYPE_CHECKING:
    from models.promotion import Promotion
    from models.repository import ModelRepository

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def promote_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model to change.")],
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="[V]", help="Candidate version.", show_default="that of --stop or --resume"
        ),
    ] = None,
    canary: Annotated[
        str, typer.Option(help="Share of the requests at first, to 0.8; each step doubles it.")
    ] = "0.1",
    max_flips: Annotated[
        str | None, typer.Option(help="Share of rows with another label, as 0.5%.")
    ] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="Accuracy by feedback, as 93%; a point above passes.")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="Accuracy lost against the served version by feedback, as 1%."),
    ] = None,
    p99_ms: Annotated[
        float | None,
        typer.Option(min=0.1, max=30_000, help="99th percentile of its answers, milliseconds."),
    ] = None,
    within: Annotated[
        str, typer.Option(help="Time for the evidence, as 90s, 30m, 2h or 1d.")
    ] = "2h",
    step: Annotated[
        str | None,
        typer.Option(
            help="Shortest time of a step.", show_default="all steps take half of --within"
        ),
    ] = None,
    shadow: Annotated[
        str, typer.Option(help="Share of the served version's requests to compare.")
    ] = "0.25",
    is_stopped: Annotated[
        bool, typer.Option("--stop", help="Stop NAME's promotion; its candidate gets nothing.")
    ] = False,
    is_resumed: Annotated[
        bool, typer.Option("--resume", help="Go on with a promotion that was stopped.")
    ] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Let VERSION serve in place of the served version, step by step, if the evidence allows it.

    A running service decides. What reaches a limit is refused with 95 % probability, and nothing
    reaches clients any more; what is half of it passes with 95 %.

    Example: foveal models promote fashion-cnn 2 --max-flips 0.5% --p99-ms 50 --within 2h
    """
    import time

    from models.promote import begin, check, resume, stop
    from models.promotion import MOST_SHARE, Limits, new_promotion

    repository = open_repository(models)
    if is_stopped or is_resumed:
        done = stop(repository, name) if is_stopped else resume(repository, name)
        said = f"{name}:{done.version} {done.events[-1].text}{_WHEN}"
        show({"model": name, "promotion": done.document}, as_json, [(said,)])
        return
    if version is None:
        raise typer.BadParameter("VERSION: expected the candidate, got none")
    limits = Limits(
        _share(max_flips, "--max-flips"),
        _share(min_accuracy, "--min-accuracy"),
        _share(max_drop, "--max-drop"),
        p99_ms,
    )
    if limits == Limits():
        raise typer.BadParameter(
            "expected a limit, got none; give --max-flips, --min-accuracy, --max-drop or --p99-ms"
        )
    served = check(repository, name, version)
    promotion = new_promotion(
        version,
        served,
        limits,
        first_share=_share(canary, "--canary", MOST_SHARE) or 0.1,
        shadow=_share(shadow, "--shadow", 1.0) or 0.25,
        within_s=_duration(within, "--within"),
        step_s=None if step is None else _duration(step, "--step"),
        now_s=time.time(),
    )
    begin(repository, name, promotion)
    lines = [(line,) for line in _told(name, promotion)]
    show({"model": name, "promotion": promotion.document}, as_json, lines)


def show_promotion(
    repository: "ModelRepository", name: str, version: int
) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """Return the promotion that a version has a part in, None for none, and lines about it."""
    from service.rollout.exchange import is_counted, total
    from service.rollout.promotion import judge

    promotion = repository.settings().promotions.get(name)
    if promotion is None or version not in (promotion.version, promotion.against):
        return None, []
    said = f"of version {promotion.version} in place of {promotion.against}: {promotion.state}"
    if promotion.is_running:
        said += f", {promotion.share:.4g} of the requests, within {promotion.within_s:.0f} s"
    lines = [("promotion", said)]
    findings = []
    if promotion.state in ("running", "stopped"):  # counts of others are gone
        findings = judge(promotion, total(repository.root, name, promotion))
    if promotion.is_running and not is_counted(repository.root, name, promotion):
        lines.append(("", _NOBODY))
    lines += [("", f"{each.verdict}: {each.text}") for each in findings]
    for event in promotion.events:
        at = datetime.fromtimestamp(event.at_s, UTC)
        lines.append(("", f"{at:%Y-%m-%d %H:%M:%S} UTC, {event.text}"))
    return promotion.document | {"evidence": [each._asdict() for each in findings]}, lines


_NOBODY = (
    "no service takes part yet: none runs, its FOVEAL_RELOAD_S is 0, or it cannot write to the "
    "repository; its log says which"
)
_WHEN = "; a running service follows within FOVEAL_RELOAD_S seconds"


def _told(name: str, promotion: "Promotion") -> list[str]:
    shares = ", ".join(f"{share:.4g}" for share in promotion.shares)
    lines = [
        f"{name}:{promotion.version} gets {shares} of the requests, at least "
        f"{promotion.step_s:.4g} s each, then serves in place of {promotion.against}; see "
        f"foveal models show {name}:{promotion.version}{_WHEN}"
    ]
    if promotion.limits.needs_feedback:
        lines.append(
            "accuracy waits for feedback; if too little comes in time, version "
            f"{promotion.against} stays"
        )
    return lines


def _share(text: str | None, option: str, most: float | None = None) -> float | None:
    """Read a share as 0.005 or 0.5%: above 0, to ``most`` or, without it, below 1."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not (0 < share < 1 if most is None else 0 < share <= most):
        end = "below 1" if most is None else f"to {most:g}"
        raise typer.BadParameter(
            f"{option}: expected a share above 0 and {end}, as 0.005 or 0.5%, got {text!r}"
        )
    return share


def _duration(text: str, option: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0 < seconds <= 30 * _UNITS_S["d"]:
        raise typer.BadParameter(
            f"{option}: expected a time up to 30d, as 90s, 30m, 2h or 1d, got {text!r}"
        )
    return seconds
