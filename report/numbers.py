"""Numbers as reports write them: for a reader, and for JSON."""

import math
from typing import Any


def three_digits(value: float, missing: str = "none") -> str:
    """Return a number to three significant digits, whole numbers and large ones in full.

    Args:
        value: Any number.
        missing: Text for NaN.
    """
    if math.isnan(value):
        return missing
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def without_nan(value: Any) -> Any:
    """Return a JSON document with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
