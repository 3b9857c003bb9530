"""What replicas of a service tell each other about a promotion, by small files in the repository.

Each replica writes what it counted to a file of its own, so all counts are those of the files
together, and those of a replica that ended stay. The ``Lease`` says which replica decides.

    .promotions/.lease.json              who decides
    .promotions/NAME/ID/REPLICA.json     counts before the promotion, and now
"""

import contextlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.files import locked, read_file, why_not_writable, write_atomically
from models.promotion import Promotion
from service.rollout.promotion import Counts

_FOLDER = ".promotions"
_MOST_BYTES = 1 << 16
# A lease that nobody renewed for so long is another's: far above the time between two renewals of
# any holder that lives. Who was only paused finds it gone; what it decides meanwhile is refused, as
# every decision names the state that it was made from.
LEASE_S = 10.0


def why_not_part(root: Path) -> str:
    """Return why this process can take no part in a promotion; empty if it can.

    Args:
        root: The repository.
    """
    folder = root / _FOLDER  # another user's service may have made it
    return why_not_writable(root) or (why_not_writable(folder) if folder.is_dir() else "")


class Lease:
    """A file that one replica at a time holds by renewing it.

    No clocks are compared: who waits measures with its own how long the file has not changed.

    Args:
        root: The repository.
        holder: Name of this replica, unlike any other's.
        lease_s: Time after which a lease that is not renewed is over.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        root: Path,
        holder: str,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = root / _FOLDER / ".lease.json"
        self._holder = holder
        self._lease_s = lease_s
        self._clock = clock
        self._seen: object = None
        self._seen_at = 0.0

    def hold(self) -> bool:
        """Take or renew the lease; return whether this replica holds it.

        Raises:
            OSError: The file cannot be written.
        """
        self._path.parent.mkdir(exist_ok=True)
        with locked(self._path.with_name(".lock")):
            found = _read(self._path)
            if found and found.get("holder") != self._holder:
                if found != self._seen:
                    self._seen, self._seen_at = found, self._clock()
                if self._clock() - self._seen_at < self._lease_s:
                    return False
            renewals = found.get("renewals", 0) if found.get("holder") == self._holder else 0
            said = {"holder": self._holder, "renewals": renewals + 1}
            write_atomically(self._path, json.dumps(said))
            return True

    def release(self) -> None:
        """Give the lease up, if it is held: another replica may take it at once."""
        with contextlib.suppress(OSError), locked(self._path.with_name(".lock")):
            if _read(self._path).get("holder") == self._holder:
                self._path.unlink()


def publish(root: Path, name: str, promotion: Promotion, replica: str, counts: Counts) -> None:
    """Write what this replica has counted, whenever it began to.

    Args:
        root: The repository.
        name: The model.
        promotion: Its promotion.
        replica: Name of this replica, the same for all its workers and unlike any other's.
        counts: All that it ever counted; the first call's are what came before the promotion.

    Raises:
        OSError: The file cannot be written.
    """
    path = _folder(root, name, promotion) / f"{replica}.json"
    known = _read(path)
    said = {"before": known.get("before", dict(counts)), "now": dict(counts)}
    if said != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(said))


def is_counted(root: Path, name: str, promotion: Promotion) -> bool:
    """Whether a service takes part in a promotion, or did."""
    return any(_folder(root, name, promotion).glob("*.json"))


def total(root: Path, name: str, promotion: Promotion) -> dict[str, float]:
    """Return what all replicas counted in a promotion."""
    counts: defaultdict[str, float] = defaultdict(float)
    for path in _folder(root, name, promotion).glob("*.json"):
        said = _read(path)
        before = _numbers(said.get("before"))
        for key, value in _numbers(said.get("now")).items():
            counts[key] += max(0.0, value - before.get(key, 0.0))
    return dict(counts)


def clean(root: Path, name: str, kept: Promotion | None = None) -> None:
    """Remove the counts of all promotions of a model but one."""
    folder = root / _FOLDER / name
    with contextlib.suppress(OSError):
        for each in folder.iterdir():
            if kept is None or each.name != kept.id:
                shutil.rmtree(each, ignore_errors=True)
        if kept is None:
            folder.rmdir()


def _folder(root: Path, name: str, promotion: Promotion) -> Path:
    return root / _FOLDER / name / promotion.id


def _numbers(document: Any) -> dict[str, float]:
    pairs = document.items() if isinstance(document, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, int | float)}


def _read(path: Path) -> dict[str, Any]:
    """Return a file's object, an empty one if it is not there or is damaged."""
    try:
        document = json.loads(read_file(path, _MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
