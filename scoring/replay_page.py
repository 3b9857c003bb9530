"""The page of a replay: what changed, with the images whose label did, self-contained."""

from dataclasses import dataclass
from pathlib import Path

from models.artifact import ModelArtifact
from models.files import write_atomically
from models.image import ImageError, decode, encode_png
from report.page import Card, Table, Thumbnail, render
from scoring.compared import Comparison, Flip, accuracy_text, summarize
from scoring.recorded import image_of
from service.record.reading import RecordingError

REPLAY_HTML = "replay.html"
_TEMPLATE = Path(__file__).with_name("replay.html")
# Smaller pictures are enlarged to about this side, pixel by pixel.
_SIDE = 112
_FLIPS, _ERRORS = 50, 20


@dataclass(frozen=True, slots=True)
class Names:
    """What the page calls the two answers, and how the second one was timed."""

    recording: str
    before: str
    after: str
    latency: str


def write_page(
    folder: Path, found: Comparison, artifact: ModelArtifact, names: Names, command: str
) -> Path:
    """Write ``replay.html`` into a folder.

    Args:
        folder: Made if needed; for its owner alone, as the page shows recorded images.
        found: What the replay found.
        artifact: The candidate.
        names: What the answers are called.
        command: The command that repeats it.

    Returns:
        The page.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flips = [[a, b, f"{rows:,}"] for (a, b), rows in found.flips.most_common(_FLIPS)]
    errors = [[why, f"{rows:,}"] for why, rows in found.errors.most_common(_ERRORS)]
    page = render(
        _TEMPLATE,
        title=f"Replay of {names.after}",
        about=f"Requests of {names.recording}; {names.after} compared with {names.before}.",
        summary=dict(summarize(found)),
        warnings=(),
        latency=names.latency,
        sides=_sides(found, names),
        flips=Table(("Before", "After", "Rows"), flips, {2}),
        cards=[_card(flip, artifact) for flip in found.shown],
        errors=Table(("Why", "Rows"), errors, {1}),
        command=command,
    )
    write_atomically(folder / REPLAY_HTML, page)
    return folder / REPLAY_HTML


def _sides(found: Comparison, names: Names) -> Table:
    rows = []
    for name, side in ((names.before, found.before), (names.after, found.after)):
        error = side.calibration_error
        rows.append(
            [
                name,
                accuracy_text(side),
                "unknown" if error is None else f"{error:.4f}",
                f"{side.confidence / side.rows:.4f}" if side.rows else "",
                f"{side.percentile_ms(0.5):.3g}",
                f"{side.percentile_ms(0.99):.3g}",
            ]
        )
    heads = ("Answer", "Accuracy", "Calibration error", "Mean confidence", "p50 ms", "p99 ms")
    return Table(heads, rows, {2, 3, 4, 5})


def _card(flip: Flip, artifact: ModelArtifact) -> Card:
    pair = flip.pair
    text = f"Image of {pair.sample.id}, row {pair.sample.row}: {flip.before} became {flip.after}."
    try:
        row_HWC = decode(image_of(pair.sample), artifact.image)
        factor = max(1, _SIDE // max(row_HWC.shape[:2]))
        png = encode_png(row_HWC.repeat(factor, axis=0).repeat(factor, axis=1))
    except (ImageError, RecordingError):
        png = None
    assert pair.after is not None, "a flip has two answers; this is a bug"
    was, now = (float(x.probabilities_K.max()) for x in (pair.before, pair.after))
    lines = [f"{flip.before} {was:.3f} → {flip.after} {now:.3f}", pair.sample.id]
    if flip.truth:
        lines.insert(1, f"true: {flip.truth}")
    return Card([Thumbnail(text, png)], lines)
