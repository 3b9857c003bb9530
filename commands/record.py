"""Look at what a service recorded, take it elsewhere, erase it: ``foveal record …``."""

import datetime
import os
import tempfile
from collections import Counter, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.console import print_line, show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.repository import ModelRepository
    from service.record.sample import Sample
    from service.record.truths import Truth, Truths

RecordingOption = Annotated[
    Path | None,
    typer.Option(
        "--recording",
        metavar="DIR",
        help="Recording: a folder of shards, or one tar.",
        show_default="FOVEAL_RECORD_FOLDER",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="CSV",
        help="True labels: columns id, label or index, and row for requests of several images.",
        show_default="feedback in the recording",
    ),
]
ModelFilter = Annotated[
    str, typer.Option("--model", metavar="NAME[:V]", help="Only its rows.", show_default="all")
]


def list_rows(
    recording: RecordingOption = None,
    model: ModelFilter = "",
    last: Annotated[int, typer.Option(min=0, help="Newest rows to print.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest recorded rows, and count all by model and status.

    Example: foveal record list --last 5
    """
    from scoring.recorded import Wanted
    from service.record.reading import read

    wanted = Wanted(model, {})
    newest: deque[Sample] = deque(maxlen=last)
    counts: Counter[str] = Counter()
    for entry in read(folder_of(recording), with_content=False):
        if wanted.has(entry.sample):
            newest.append(entry.sample)
            document = entry.sample.document
            status = "" if document["status"] == 200 else f", status {document['status']}"
            counts[f"{document['model']}:{document['version']}{status}"] += 1
    rows = [sample.document for sample in newest]
    lines = [("time", "id", "row", "model", "status", "label", "probability"), *map(_line, rows)]
    show({"counts": counts, "rows": rows}, as_json, lines)
    if not as_json:
        said = ", ".join(f"{count:,} of {what}" for what, count in sorted(counts.items()))
        print_line(f"{sum(counts.values()):,} rows: {said}" if counts else "no rows")


def show_rows(
    id_: Annotated[str, typer.Argument(metavar="ID", help="X-Request-Id of the request.")],
    recording: RecordingOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for its images, made if needed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what one request was answered; the exit code is 1 if it is not recorded.

    Example: foveal record show 5f2c1a77e3b0-1c --out look
    """
    from service.record.reading import read
    from service.record.truths import read_truths

    folder = folder_of(recording)
    truths = read_truths(folder)
    documents: list[dict[str, Any]] = []
    for entry in read(folder, ids={id_}, with_content=out is not None):
        sample = entry.sample
        truth = truths.get((sample.id, sample.row))
        documents.append(sample.document | ({} if truth is None else {"truth": truth}))
        if out is not None and sample.content:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            (out / f"{sample.key}.{sample.ending}").write_bytes(sample.content)
    if not documents:
        print_line(f"{id_}: expected a recorded request, got none in {folder}", is_error=True)
        raise typer.Exit(1)
    lines: list[tuple[str, str]] = []
    for document in documents:
        lines += [(name, _text(name, value)) for name, value in document.items()]
    show(documents, as_json, lines)


def export_rows(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="New file .parquet or .tar, or new folder: images, in folders of true labels.",
        ),
    ],
    recording: RecordingOption = None,
    model: ModelFilter = "",
    labels: LabelsOption = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Only rows whose true label is known.")
    ] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Copy recorded images with their answers, and true labels where they are known.

    Example: foveal record export week.parquet --model fashion-cnn
    """
    from scoring.recorded import Wanted, export

    folder = folder_of(recording)
    wanted = Wanted(model, truths_of(folder, labels), labelled)
    rows = export(folder, out, wanted, Labels(open_repository(models)))
    show({"rows": rows, "out": str(out)}, as_json, [(f"{rows:,} rows in {out}",)])


def erase_rows(
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Request to erase; may be repeated."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Erase the whole recording.")] = False,
    recording: RecordingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Overwrite what was recorded of some requests, also while the service runs.

    What was answered in the last second may not be there yet. The exit code is 1 if an id is not
    recorded.

    Example: foveal record erase --id 5f2c1a77e3b0-1c
    """
    from service.record.erasing import erase, erase_all

    if bool(ids) == everything:
        raise typer.BadParameter("expected --id ID or --all", param_hint="--id")
    folder = folder_of(recording)
    rows = erase_all(folder) if everything else erase(folder, set(ids or ()))
    show({"rows": rows}, as_json, [(f"{rows:,} rows erased",)])
    if not rows and not everything:
        raise typer.Exit(1)


def folder_of(recording: Path | None) -> Path:
    """Return the recording that is meant: the one that is named, or the service's."""
    from service.settings import recording_folder

    return recording or recording_folder(os.environ.get("FOVEAL_RECORD_FOLDER", ""))


def truths_of(recording: Path, labels: Path | None) -> "Truths":
    """Return what is known to be true: by a CSV, or by the feedback in the recording."""
    from service.record.truths import read_labels, read_truths

    return read_labels(labels) if labels is not None else read_truths(recording)


class Labels:
    """True labels as text: what stands for an index is the label of the version that answered.

    Args:
        repository: Where the versions are; the digits of an index that it does not know stay.
    """

    def __init__(self, repository: "ModelRepository") -> None:
        self._repository = repository
        self._known: dict[tuple[str, int], tuple[str, ...]] = {}

    def __call__(self, sample: "Sample", truth: "Truth | None") -> str:
        """Return the label, several with a bar between them; empty where nothing is known."""
        if truth is None:
            return ""
        several = truth if isinstance(truth, tuple) else (truth,)
        return "|".join(self._one(sample, each) for each in several)

    def _one(self, sample: "Sample", truth: int | str) -> str:
        if isinstance(truth, str):
            return truth
        version = str(sample.document["model"]), int(sample.document["version"])
        if version not in self._known:
            self._known[version] = self._load(*version)
        labels = self._known[version]
        return labels[truth] if 0 <= truth < len(labels) else str(truth)

    def _load(self, name: str, version: int) -> tuple[str, ...]:
        from models.artifact import ArtifactError

        try:
            return self._repository.load(name, version).labels
        except ArtifactError:
            return ()


@contextmanager
def as_pictures(paths: "Sequence[Path]", repository: "ModelRepository") -> "Iterator[list[Path]]":
    """Yield paths to images, for recordings among them those of a folder that is deleted after."""
    from scoring.recorded import Wanted, export
    from service.record.reading import is_recording
    from service.record.truths import read_truths

    with tempfile.TemporaryDirectory(prefix="foveal-recording-") as folder:
        found = []
        for number, path in enumerate(paths):
            if is_recording(path):
                truths = read_truths(path)
                taken = Path(folder) / str(number)
                # Beside folders that are labels there may be no other images.
                export(path, taken, Wanted("", truths, bool(truths)), Labels(repository))
                path = taken  # noqa: PLW2901
            found.append(path)
        yield found


def _line(document: dict[str, Any]) -> tuple[str, ...]:
    probabilities = document.get("probabilities")
    label = document.get("label", document.get("error", ""))
    return (
        _text("time", document["time"]),
        document["id"],
        str(document["row"]),
        f"{document['model']}:{document['version']}",
        str(document["status"]),
        "abstained" if document.get("abstained") else str(label)[:60],
        f"{max(probabilities):.4f}" if probabilities else "",
    )


def _text(name: str, value: Any) -> str:
    if name == "time":
        return datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat(
            " ", timespec="milliseconds"
        )
    if name == "probabilities" and len(value) > 10:
        return f"{len(value)} of them; see --json"
    return str(value)
