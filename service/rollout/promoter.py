"""Promote by evidence, while the service runs: count, decide, write the next step.

One worker of each service counts for all its workers, by a lock in the folder of their metrics that
the kernel gives back when it ends. One of the replicas that share a repository decides, by a lease.
All else follows from ``repository.json``: the shares reach every worker as any rollout does, and a
restart goes on. Everything here is on a thread of its own.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.artifact import ArtifactError
from models.promote import advance
from models.promotion import Promotion
from service.metrics.families import PROMOTION_EVIDENCE, PROMOTION_SHARE, PROMOTION_STEPS
from service.rollout.evidence import read_counts
from service.rollout.exchange import LEASE_S, Lease, clean, publish, total, why_not_part
from service.rollout.model_control import ModelControl
from service.rollout.promotion import decide, judge

logger = logging.getLogger("foveal.promotion")

_OUTCOMES = {"running": "grown", "promoted": "promoted", "fell back": "fell_back"}


class Promoter:
    """Looks at the promotions at an interval.

    Args:
        control: What is served; it looks at the repository when a promotion has changed.
        folder: What PROMETHEUS_MULTIPROC_DIR names.
        interval_s: Seconds from the end of a look to the next, above 0.
    """

    def __init__(self, control: ModelControl, folder: Path, interval_s: float) -> None:
        self._control = control
        self._repository = control.repository
        self._folder = folder
        self._interval_s = interval_s
        self._replica = f"{socket.gethostname()}-{folder.name}"
        # A worker that takes the place of another here need not wait: the lock has told it.
        self._lease = Lease(self._repository.root, self._replica, max(LEASE_S, 5 * interval_s))
        self._lock: int | None = None
        self._seen: dict[str, Promotion] = {}
        self._logged = ""
        self._thread = ThreadPoolExecutor(1, "promotion")
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._watch())

    def close(self) -> None:
        """Stop; another worker or replica goes on."""
        self._task.cancel()
        self._thread.submit(self._give_up)
        self._thread.shutdown(wait=False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                has_changed = await self._loop.run_in_executor(self._thread, self._look)
                if has_changed:
                    await self._control.poll()
            except ArtifactError as error:
                self._log_once(f"no promotion goes on: {error}")
            except OSError as error:
                self._log_once(
                    f"no promotion goes on: {error.filename}: {error.strerror}; let the service "
                    "write to the repository"
                )
            except Exception:
                logger.exception("looking at the promotions failed; this is a bug")
            else:
                self._logged = ""

    def _log_once(self, message: str) -> None:
        if message != self._logged:
            self._logged = message
            logger.error("%s", message)

    def _look(self) -> bool:
        """Take all promotions a step further that are due; return whether one has changed."""
        try:
            promotions = self._repository.settings().promotions
        except ArtifactError:  # whoever loads models says so, too
            if self._seen:
                raise
            return False
        running = {name: each for name, each in promotions.items() if each.is_running}
        if not (running or self._seen) or not self._is_counting():
            return False
        if running and (why := why_not_part(self._repository.root)):
            raise ArtifactError(
                f"{self._repository.root}: expected a repository that the service can write, got: "
                f"{why}; mount it writable. Until then no candidate of a promotion gets a request"
            )
        has_changed = self._tell(promotions)
        counts = read_counts(self._folder, running) if running else {}
        for name, promotion in running.items():
            publish(self._repository.root, name, promotion, self._replica, counts[name])
        if running and self._lease.hold():
            for name, promotion in running.items():
                has_changed |= self._decide(name, promotion)
        return has_changed

    def _is_counting(self) -> bool:
        """Return whether this worker counts for all, and become it if nobody does."""
        if self._lock is None:
            descriptor = os.open(self._folder / "promotion.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _tell(self, promotions: dict[str, Promotion]) -> bool:
        """Log what has happened since the last look, and show each promotion in the metrics."""
        has_news = False
        for name in self._seen.keys() - promotions.keys():  # taken out of the file by hand
            PROMOTION_SHARE.labels(name, str(self._seen.pop(name).version)).set(0)
        for name, promotion in promotions.items():
            seen = self._seen.get(name)
            is_known = seen is not None and seen.id == promotion.id
            if not (is_known or promotion.is_running):
                continue
            # Of one that is new here, the last event: a restart has logged the others already.
            events = promotion.events[len(seen.events) if seen and is_known else -1 :]
            for event in events:
                logger.info("promotion of %s:%d %s", name, promotion.version, event.text)
                has_news = True
            labels = name, str(promotion.version)
            if not is_known:
                for outcome in _OUTCOMES.values():
                    PROMOTION_STEPS.labels(*labels, outcome)
            PROMOTION_SHARE.labels(*labels).set(promotion.share)
            self._show_evidence(name, promotion)
            root = self._repository.root
            if promotion.is_running:
                if not is_known:
                    clean(root, name, promotion)
                self._seen[name] = promotion
                continue
            del self._seen[name]
            if promotion.state != "stopped":  # that one may be resumed
                clean(root, name)
        return has_news

    def _show_evidence(self, name: str, promotion: Promotion) -> None:
        for finding in judge(promotion, total(self._repository.root, name, promotion)):
            level = finding.level if promotion.is_running else 0.0
            PROMOTION_EVIDENCE.labels(name, str(promotion.version), finding.limit).set(level)

    def _decide(self, name: str, promotion: Promotion) -> bool:
        now_s = time.time()
        counts = total(self._repository.root, name, promotion)
        after = decide(promotion, counts, now_s, self._why_not(name, promotion, now_s))
        if after is None or not advance(self._repository, name, promotion, after):
            return False
        if len(after.events) > len(promotion.events):
            outcome = _OUTCOMES[after.state]
            PROMOTION_STEPS.labels(name, str(promotion.version), outcome).inc()
        self._tell(self._seen | {name: after})
        return True

    def _why_not(self, name: str, promotion: Promotion, now_s: float) -> str:
        """Return why a candidate cannot be promoted, whatever was counted."""
        try:
            _, served = self._repository.resolve(name)
        except ArtifactError as error:  # what serves is gone
            return str(error)
        if served != promotion.against:
            return f"version {served} serves, not {promotion.against}, which it is compared with"
        if promotion.version not in self._repository.versions(name):
            return f"version {promotion.version} is gone"
        # A refusal may be of files that have changed since: the next poll tries them again.
        is_polled = now_s - promotion.step_began_s > 2 * self._interval_s
        refused = self._control.catalog.refused.get(f"{name}:{promotion.version}")
        return f"it cannot be loaded: {refused}" if refused and is_polled else ""

    def _give_up(self) -> None:
        self._lease.release()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def promoter_of(control: ModelControl, interval_s: float) -> Promoter | None:
    """Return what promotes, None where workers do not look at the repository or share no metrics.

    Args:
        control: As ``Promoter``.
        interval_s: FOVEAL_RELOAD_S.
    """
    if not interval_s:
        with contextlib.suppress(ArtifactError):
            for name, each in control.repository.settings().promotions.items():
                if each.is_running:
                    logger.error(
                        "promotion of %s:%d: expected FOVEAL_RELOAD_S above 0, got 0; it does not "
                        "go on, and the candidate gets no request",
                        name,
                        each.version,
                    )
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Promoter(control, Path(folder), interval_s) if folder and interval_s else None
