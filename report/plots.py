"""How every plot of a report looks: colours, sizes, axes. Knows matplotlib, no measurement."""

import io
import math
import unicodedata
from collections.abc import Sequence
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Colours that stay apart in grey and for the colour-blind (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, YELLOW, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#666666",
)
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW)
MARKERS = "osD^v<>P*X"
# Letters of a name in a picture; more run into its neighbours.
_NAME_LETTERS = 24
WIDTH, _DPI = 8.0, 110  # inches, dots per inch; the page is one column


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure; sizes in inches, the width of a page's column by default."""
    return Figure((width, height), layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return names as a picture can show them: cut if long, ``#12`` where the font lacks a letter.

    Arabic and Hebrew count as lacking: matplotlib draws their letters unjoined, from the left.
    """
    letters = _letters()
    return [
        name[:_NAME_LETTERS] + "…" * (len(name) > _NAME_LETTERS)
        if all(ord(letter) in letters and not _is_from_right(letter) for letter in name)
        else f"#{number}"
        for number, name in enumerate(names)
    ]


@cache
def _letters() -> frozenset[int]:
    """Return the code points of matplotlib's own font, the only one that is everywhere."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _is_from_right(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("R", "AL")


def finish(axes: Axes) -> None:
    """Add a light grid and a legend at the right, and remove the frame's upper and right line."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_promise(axes: Axes, value: float, label: str) -> None:
    """Draw the promised latency as a dashed horizontal line."""
    axes.axhline(value, color=GREY, linestyle="--", linewidth=0.9, label=label)


def set_milliseconds(axes: Axes, values: Sequence[float]) -> None:
    """Set up a latency axis: logarithmic where the values span more than one power of ten."""
    known = [value for value in values if not math.isnan(value) and value > 0]
    axes.set_ylabel("milliseconds")
    if known and max(known) > 12 * min(known):
        set_logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6))


def set_logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers instead of powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def finish_log_log(axes: Axes) -> None:
    """Label two logarithmic axes with plain numbers, enough of them on short axes too."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        # Below one power of ten a logarithmic locator would leave one label or none.
        is_short = high < 8 * low
        axis.set_major_locator(MaxNLocator(6) if is_short else LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#e3e3e3", linewidth=0.6)
