"""Number formats and layouts: what a plan is chosen from, and the choice by measured times.

A format says how products are computed, from exact float32 down to eight bits; a layout, in which
order a GPU's convolutions find pixels and channels. Arithmetic only: knows no session.
"""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from models.artifact import Precision
from service.session.plans import Device, Layout, NumberFormat, format_of

Choice = Literal["auto", "fp32", "int8", "fp16"]
# Whether products may be rounded to TF32: never, always, or where a plan is chosen by measurement.
Tf32 = Literal["off", "on", "auto"]

# From exact to coarse.
FORMATS: tuple[NumberFormat, ...] = ("fp32", "tf32", "fp16", "int8")
# A coarser format must make a full batch this much faster to be worth other digits: more than the
# noise of the measurement, so that workers and restarts decide alike.
PRECISION_GAIN = 1.15
# Another layout changes no digit but the order of sums; more than the noise all the same.
LAYOUT_GAIN = 1.03


class Variant(NamedTuple):
    """A file of the version and how a device computes it."""

    precision: Precision
    tf32: bool = False
    layout: Layout = "nchw"

    @property
    def format(self) -> NumberFormat:
        """Return the number format that products are computed in."""
        return format_of(self.precision, self.tf32)

    def __str__(self) -> str:
        """Return format and layout as text for people, as ``fp16 nhwc``."""
        return f"{self.format} {self.layout}"


def variants(
    device: Device, asked: Choice, tf32: Tf32, gated: Collection[Precision]
) -> tuple[Variant, ...]:
    """Return what a plan is chosen from, the one to fall back to first.

    Only the CUDA provider has layouts to choose from, and exact float32 none there: its kernels
    without tensor cores are made for NCHW (on one H100, resnet50 took 1.2 times longer in NHWC).
    Nor has it int8: it computes an int8 file in float32, so ``auto`` leaves that out.

    Args:
        device: Device whose kernels compute.
        asked: Value of the precision setting.
        tf32: Whether TF32 may be used.
        gated: Precisions of the files that passed their gate, fp32 aside.
    """
    is_tf32 = device != "cpu" and (tf32 == "on" or (tf32 == "auto" and asked == "auto"))
    layouts: tuple[Layout, ...] = ("nchw", "nhwc") if device == "cuda" else ("nchw",)
    found: list[Variant] = []
    if tf32 != "on" or device == "cpu":
        found.append(Variant("fp32"))
    if is_tf32:
        found += [Variant("fp32", True, layout) for layout in layouts]
    if asked == "fp32":
        return tuple(found)
    lower: tuple[Precision, ...] = ("fp16", "int8") if device != "cuda" else ("fp16",)
    if asked != "auto":
        lower = (asked,)
    for precision in lower:
        if precision in gated:
            is_rounded = tf32 == "on" and device != "cpu"  # what is left in float32 around it
            own = layouts if precision == "fp16" else layouts[:1]
            found += [Variant(precision, is_rounded, layout) for layout in own]
    return tuple(v for v in found if asked in ("auto", v.precision)) or tuple(found)


def choose_variant(seconds: Mapping[Variant, float]) -> Variant:
    """Choose by measurement: the most exact format, unless a coarser one is clearly faster.

    Args:
        seconds: Of a full batch, by variant, at least one.
    """
    best: Variant | None = None
    for number_format in FORMATS:
        own = {v: s for v, s in seconds.items() if v.format == number_format}
        if not own:
            continue
        # Ties go to NCHW.
        fastest = min(own, key=lambda v: own[v] * (LAYOUT_GAIN if v.layout == "nhwc" else 1))
        if best is None or seconds[fastest] * PRECISION_GAIN < seconds[best]:
            best = fastest
    assert best is not None, "something was measured; this is a bug"
    return best
