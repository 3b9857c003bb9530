"""The requests of a load test: when each was due, how long it took, and its outcome.

Each sender process writes one file; the process that started it reads and joins them.
Percentiles are exact: nothing is put into buckets. Legend: N requests.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# right: 200 with the recorded labels; wrong: 200 with others; refused: 429; expired: 504;
# failed: any other status, or no answer; timeout: none in the client's time.
OUTCOMES = ("right", "wrong", "refused", "expired", "failed", "timeout")
RIGHT, WRONG, REFUSED, EXPIRED, FAILED, TIMEOUT = range(len(OUTCOMES))


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests in the order of their intended start.

    Attributes:
        intended_s_N: float64, when each was meant to be sent, seconds after the common start. In a
            closed loop the moment when it was sent.
        late_s_N: float64, how long after that the client came to it: its own fault.
        latency_s_N: float64, intended start to whole answer, seconds.
        outcome_N: uint8, index into ``OUTCOMES``.
        rows_N: uint16, images in the request.
        kinds: Names of the kinds of traffic.
        kind_N: uint8, index into ``kinds``.
        causes: Counts of errors by cause.
        retry_after_s: Counts of ``Retry-After`` by its seconds; -1 for those that say no time.
        cpu_shares: Share of one core that each process of the client used.
    """

    intended_s_N: NDArray[np.float64]
    late_s_N: NDArray[np.float64]
    latency_s_N: NDArray[np.float64]
    outcome_N: NDArray[np.uint8]
    rows_N: NDArray[np.uint16]
    kinds: tuple[str, ...]
    kind_N: NDArray[np.uint8]
    causes: Mapping[str, int]
    retry_after_s: Mapping[int, int]
    cpu_shares: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.intended_s_N)

    def between(self, begin_s: float, end_s: float) -> "Samples":
        """Return the requests due in a span; causes and shares stay those of all requests."""
        is_in = (self.intended_s_N >= begin_s) & (self.intended_s_N < end_s)
        return self.where(is_in)

    def where(self, is_in_N: NDArray[np.bool_]) -> "Samples":
        """Return the requests of a mask; causes and shares stay those of all requests."""
        arrays = {name: getattr(self, name)[is_in_N] for name in _ARRAYS}
        return replace(self, **arrays)

    def count(self, outcome: int) -> int:
        """Return how many had an outcome."""
        return int((self.outcome_N == outcome).sum())

    def latency_ms(self, share: float, outcomes: Sequence[int] = (RIGHT, WRONG)) -> float:
        """Return the latency that a share of the answers of some outcomes stays within, in ms.

        Returns:
            NaN without such answers.
        """
        chosen = self.latency_s_N[np.isin(self.outcome_N, outcomes)]
        return percentile(chosen, share) * 1e3


def percentile(values_N: NDArray[np.float64], share: float) -> float:
    """Return the smallest value that at least a share of all values stay within; NaN of none."""
    if not len(values_N):
        return float("nan")
    return float(np.quantile(values_N, share, method="inverted_cdf"))


def wait_s(text: str) -> int:
    """Return the seconds of a ``Retry-After``, which is a number or a date (RFC 9110, 10.2.3).

    Returns:
        At least 0, for a date that is past; -1 if it is neither.
    """
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return -1
    # HTTP's dates are in GMT, also those without a zone.
    left_s = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0, math.ceil(left_s))


_ARRAYS = ("intended_s_N", "late_s_N", "latency_s_N", "outcome_N", "rows_N", "kind_N")
_TYPES = (np.float64, np.float64, np.float64, np.uint8, np.uint16, np.uint8)


class Recorder:
    """Samples as they come, in plain lists; for one process that sends."""

    def __init__(self) -> None:
        self._columns: tuple[list[float], ...] = tuple([] for _ in _ARRAYS)
        self._kinds: dict[str, int] = {}
        self.causes: Counter[str] = Counter()
        self.retry_after_s: Counter[int] = Counter()

    def add(
        self, kind: str, rows: int, intended_s: float, late_s: float, latency_s: float, outcome: int
    ) -> None:
        """Keep one request; times as in ``Samples``."""
        number = self._kinds.setdefault(kind, len(self._kinds))
        row = (intended_s, late_s, latency_s, outcome, rows, number)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def note_wait(self, headers: Mapping[str, str]) -> None:
        """Count the ``Retry-After`` of an answer, if it has one; names of headers in lower case."""
        if "retry-after" in headers:
            self.retry_after_s[wait_s(headers["retry-after"])] += 1

    def write(self, path: Path, cpu_share: float) -> None:
        """Write all to a file that ``read_samples`` takes."""
        notes = {
            "kinds": list(self._kinds),
            "causes": self.causes,
            "cpu_share": cpu_share,
            "retry_after_s": self.retry_after_s,
        }
        columns = zip(_ARRAYS, self._columns, _TYPES, strict=True)
        arrays: dict[str, Any] = {n: np.asarray(column, kind) for n, column, kind in columns}
        with path.open("wb") as file:
            np.savez(file, notes=np.array(json.dumps(notes)), **arrays)


def read_samples(paths: Sequence[Path]) -> Samples:
    """Read the files of all processes of one load test as one.

    Raises:
        OSError: A file is not there.
        ValueError: A file is not one of ``Recorder``.
    """
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _ARRAYS}
    kinds: dict[str, int] = {}
    causes: Counter[str] = Counter()
    retry_after_s: Counter[int] = Counter()
    cpu_shares = []
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            notes = json.loads(str(file["notes"]))
            for name in _ARRAYS:
                columns[name].append(file[name])
        numbers = [kinds.setdefault(kind, len(kinds)) for kind in notes["kinds"]]
        if numbers:
            columns["kind_N"][-1] = np.asarray(numbers)[columns["kind_N"][-1].astype(int)]
        causes.update(notes["causes"])
        retry_after_s.update({int(k): n for k, n in notes["retry_after_s"].items()})
        cpu_shares.append(float(notes["cpu_share"]))
    joined = {
        name: np.concatenate(columns[name]).astype(kind)
        for name, kind in zip(_ARRAYS, _TYPES, strict=True)
    }
    order = np.argsort(joined["intended_s_N"], kind="stable")
    return Samples(
        **{name: array[order] for name, array in joined.items()},  # type: ignore[arg-type]
        kinds=tuple(kinds),
        causes=dict(causes.most_common()),
        retry_after_s=dict(sorted(retry_after_s.items())),
        cpu_shares=tuple(cpu_shares),
    )
