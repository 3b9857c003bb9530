"""Results of a load that was never sent: a search is tested on them alone."""

import math

from loadtest.arrivals import Offered


def offered(rate: float, *, keeps: bool) -> Offered:
    """Return what a load of ``rate`` requests a second gave, all kept or half of them."""
    share = 1.0 if keeps else 0.5
    return Offered(
        rate_per_s=rate,
        offered_per_s=rate,
        answered_per_s=rate,
        goodput_per_s=share * rate,
        kept_share=share,
        p50_ms=1.0,
        p95_ms=2.0,
        p99_ms=3.0,
        refused=0,
        refused_p99_ms=math.nan,
        expired=0,
        failed=0,
        wrong=0,
        retry_after_s={},
        causes={},
        late_p95_ms=0.0,
        cpu_share=0.1,
        is_client_saturated=False,
    )
