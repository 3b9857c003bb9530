"""Sequential tests: evidence that a share is too high, or low enough, looked at as often as wanted.

A share of rows is tested by Wald's sequential probability ratio test (A. Wald, "Sequential Tests of
Statistical Hypotheses", Annals of Mathematical Statistics 16(2), 1945): the logarithm of how much
more probable the counts are at the share that is refused than at the one that passes. A difference
of two versions on the same rows, -1, 0 or 1 for each, is tested by a mixture of bets against it
(H. Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", ibid. 41(5), 1970;
I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", Journal of
the Royal Statistical Society B 86(1), 2024), for which nobody has to know how often the two differ.

By Ville's inequality evidence of log(1 / p) and more comes with a probability of p at most where
the hypothesis that it speaks against is true, however often one looks, and for shares beyond, too.
Rows are taken as independent. Needs only counts: rows may be added up over processes and time.
"""

import math
from typing import NamedTuple

# Bets as shares of the most that can be put: each suits another rate of rows that differ.
_BETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)


class Evidence(NamedTuple):
    """Natural logarithms of evidence; 0 without rows.

    Attributes:
        refuses: Against the hypothesis that the candidate is good.
        passes: Against the hypothesis that it is at its limit, or worse.
    """

    refuses: float
    passes: float


def share_evidence(hits: float, rows: float, good: float, limit: float) -> Evidence:
    """Return what the share of hits among rows says.

    Args:
        hits: Rows that count against the candidate, 0 to ``rows``.
        rows: All rows.
        good: Share of hits of a good candidate, above 0.
        limit: Share that is refused, above ``good`` and below 1.
    """
    ratio = hits * math.log(limit / good) + (rows - hits) * math.log((1 - limit) / (1 - good))
    return Evidence(ratio, -ratio)


def drop_evidence(worse: float, better: float, same: float, limit: float) -> Evidence:
    """Return what rows say on which two versions can be compared.

    Args:
        worse: Rows on which the candidate alone is wrong.
        better: Rows on which it alone is right.
        same: Rows on which both are right, or both wrong.
        limit: Share by which ``worse`` may exceed ``better`` among all rows, above 0 and below 1;
            a good candidate's exceeds it by nothing.
    """
    refuses = [worse * math.log1p(bet) + better * math.log1p(-bet) for bet in _BETS]
    # A row is worth limit - (1, -1 or 0) to who bets that the drop is below the limit; no bet may
    # lose more than is there.
    passes = [
        worse * math.log1p(bet * (limit - 1))
        + better * math.log1p(bet * (limit + 1))
        + same * math.log1p(bet * limit)
        for bet in _BETS
    ]
    return Evidence(_mean_of_logs(refuses), _mean_of_logs(passes))


def _mean_of_logs(logs: list[float]) -> float:
    """Return the logarithm of the mean of what has these logarithms."""
    most = max(logs)
    return most + math.log(sum(math.exp(each - most) for each in logs) / len(logs))
