"""The batch scorer beside what limits it and beside a plain script, in one run.

    python -m loadtest.bench.score [--model NAME] [--source TABLE.parquet] [--rows N] [--rounds K]

Measures, in turns, so that a slow minute of the machine meets all of them:

- session: the raw session on decoded arrays, at the best of several ways to use the cores;
- decode: the decoder alone, a thread a core;
- arrays: the scorer on an ``.npy`` of the same rows; table: on a Parquet of encoded images;
- plain: ``plain_score.py``, Pillow and one thread;
- start: a whole ``foveal score`` of one image, process start to table.

What counts are the ratios within a round; their median is printed. Writes
``loadtest/bench/results/score_<date>.md`` and ``.json``; the last line printed is the JSON.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL
import pyarrow
import pyarrow.parquet
from PIL import Image

from loadtest.bench.results_file import RESULTS
from loadtest.bench.timing import per_s
from models.artifact import ImageSpec
from models.image import decode
from models.machine import available_cpus, cpu_name
from models.repository import ModelRepository
from scoring.job import Options, score
from scoring.local import LocalModel

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1]
_SECONDS = 1.0
_DISTINCT = 2000  # synthetic images that are different; more rows repeat them


@dataclass(frozen=True, slots=True)
class Round:
    """Rows/s of everything, measured within a minute; ``start_s`` in seconds."""

    session: float
    decode: float
    arrays: float
    table: float
    plain: float
    start_s: float
    table_int8: float | None = None

    def ratios(self) -> dict[str, float]:
        """Return what the targets speak of."""
        slower = min(self.session, self.decode)
        found = {
            "arrays / session": self.arrays / self.session,
            "table / slower of decode and session": self.table / slower,
            "table / both on the same cores": self.table * (1 / self.session + 1 / self.decode),
            "table / plain script": self.table / self.plain,
            "start to table, s": self.start_s,
        }
        if self.table_int8 is not None:
            found["table in int8 / plain script"] = self.table_int8 / self.plain
        return found


TARGETS = {
    "arrays / session": ">= 0.9",
    "table / slower of decode and session": ">= 0.8",
    "table / both on the same cores": "(the limit is 1)",
    "table / plain script": ">= 1.8",
    "table in int8 / plain script": ">= 3",
    "start to table, s": "<= 2 to the first row",
}


class Bench:
    """One model and the files that it is measured on.

    Args:
        name: The model.
        source: Parquet with a column ``image`` of {bytes}; None: synthetic JPEGs.
        rows: How many rows each run scores.
        folder: For the files.
    """

    def __init__(self, name: str, source: Path | None, rows: int, folder: Path) -> None:
        self.repository = ModelRepository(HOME / "models")
        self.model = LocalModel.load(self.repository, name, threads=1)
        artifact = self.model.artifact
        self.int8 = (
            LocalModel.load(self.repository, artifact.reference, 1, "int8")
            if artifact.file("int8")
            else None
        )
        self._folder = folder
        images = _read_images(source) if source else _make_images(artifact.image)
        self._encoded = [images[i % len(images)] for i in range(rows)]
        self._table = folder / "images.parquet"
        cells = [{"bytes": image} for image in self._encoded]
        pyarrow.parquet.write_table(
            pyarrow.table({"image": cells}), self._table, row_group_size=1000
        )
        decoded = [self.model.decode(image) for image in images]
        self._images_NHWC = np.stack([decoded[i % len(decoded)] for i in range(rows)])
        self._array = folder / "images.npy"
        np.save(self._array, self._images_NHWC)
        self.way = max(self._ways(), key=lambda way: self._session(way, _SECONDS / 4))

    def round(self) -> Round:
        """Measure everything once."""
        return Round(
            session=self._session(self.way, _SECONDS),
            decode=self._decode(),
            arrays=self._score(self._array, self.model),
            table=self._score(self._table, self.model),
            plain=self._plain(),
            start_s=self._start(),
            table_int8=self._score(self._table, self.int8) if self.int8 else None,
        )

    def _ways(self) -> list[tuple[int, int, int]]:
        """Return (runs at once, onnxruntime's threads of each, rows of a batch)."""
        cores = available_cpus()
        ways = {(cores, 1), (1, cores), (1, 1)}
        return [(*way, rows) for way in sorted(ways) for rows in (16, 64, 256)]

    def _session(self, way: tuple[int, int, int], seconds: float) -> float:
        runners, threads, rows = way
        model = LocalModel.load(self.repository, self.model.artifact.reference, threads)
        images = self._images_NHWC[:rows]
        return len(images) * per_s([partial(model.run_batch, images)] * runners, seconds)

    def _decode(self) -> float:
        spec, some = self.model.artifact.image, self._encoded[:64]

        def work() -> None:
            for image in some:
                decode(image, spec)

        return len(some) * per_s([work] * available_cpus(), _SECONDS)

    def _score(self, source: Path, model: LocalModel) -> float:
        out = self._folder / "scores.parquet"
        return score([str(source)], model, out, Options(overwrite=True)).rows_per_s

    def _plain(self) -> float:
        artifact = self.model.artifact
        onnx = self.repository.path(artifact.name, artifact.version) / artifact.fp32.path
        words = [onnx, self._table, self._folder / "plain.csv"]
        said = json.loads(_run(HERE / "plain_score.py", *words))
        return float(said["rows"] / said["seconds"])

    def _start(self) -> float:
        artifact = self.model.artifact
        image = self.repository.path(artifact.name, artifact.version) / artifact.golden[0].path
        started = time.perf_counter()
        _run(
            HOME / "foveal.py",
            "score",
            image,
            "--model",
            artifact.reference,
            "--models",
            self.repository.root,
            "--out",
            self._folder / "one.parquet",
            "--overwrite",
        )
        return time.perf_counter() - started


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.score")
    parser.add_argument("--model", default="fashion-cnn")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(wanted.model, wanted.source, wanted.rows, Path(folder))
        rounds = []
        for number in range(wanted.rounds):
            rounds.append(bench.round())
            print(f"round {number + 1}: {_said(rounds[-1])}", file=sys.stderr)
    date = datetime.now(UTC)
    document: dict[str, Any] = {
        "date": date.isoformat(timespec="seconds"),
        "command": _command(wanted),
        "machine": f"{cpu_name()}, {available_cpus()} cores",
        "rows": wanted.rows,
        "model": bench.model.artifact.reference,
        "session_plan": dict(zip(("runs_at_once", "threads", "batch"), bench.way, strict=True)),
        "versions": {
            "python": sys.version.split()[0],
            "onnxruntime": onnxruntime.__version__,
            "pillow": PIL.__version__,
            "pyarrow": pyarrow.__version__,
        },
        "rounds": [asdict(each) for each in rounds],
        "ratios": _medians([each.ratios() for each in rounds]),
        "rows_per_s": _medians(
            [
                {name: value for name, value in asdict(each).items() if value is not None}
                for each in rounds
            ]
        ),
    }
    wanted.out.mkdir(parents=True, exist_ok=True)
    stem = f"score_{date:%Y-%m-%d_%H%M}"
    (wanted.out / f"{stem}.json").write_text(json.dumps(document, indent=2) + "\n")
    (wanted.out / f"{stem}.md").write_text(report(document))
    print(report(document))
    print(json.dumps(document))


def report(document: dict[str, Any]) -> str:
    """Return the page: what was measured, the ratios, the rows/s."""
    way = document["session_plan"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    ratios = [
        f"| {name} | {value:.2f} | {TARGETS[name]} | {min(all_):.2f}-{max(all_):.2f} |"
        for name, value in document["ratios"].items()
        for all_ in [[Round(**each).ratios()[name] for each in document["rounds"]]]
    ]
    rates = [
        f"| {name} | {value:,.0f} |"
        for name, value in document["rows_per_s"].items()
        if name != "start_s"
    ]
    return "\n".join(
        [
            f"# Batch scoring, {document['model']}",
            "",
            f"{document['machine']}, {document['date']}, {document['command']}. {versions}. "
            f"{len(document['rounds'])} rounds of {document['rows']:,} rows; medians of the ratios "
            "within a round.",
            "",
            "| ratio | median | target | least-most |",
            "|---|---|---|---|",
            *ratios,
            "",
            "| rows/s | median |",
            "|---|---|",
            *rates,
            "",
            f"The session's best way here: {way['runs_at_once']} runs at once, {way['threads']} "
            f"threads each, batches of {way['batch']}. Decode and session share the cores in the "
            "scorer: 1 / (1/decode + 1/session) is what they could give together.",
            "",
        ]
    )


def _read_images(source: Path) -> list[bytes]:
    column = pyarrow.parquet.read_table(source, columns=["image"]).column("image")
    return [cell["bytes"] for cell in column.to_pylist()]


def _make_images(spec: ImageSpec) -> list[bytes]:
    """Return JPEGs of smooth noise, in the model's size."""
    chance = np.random.default_rng(0)
    encoded = []
    for _ in range(_DISTINCT):
        coarse = chance.integers(0, 256, (8, 8, spec.channels), dtype=np.uint8)
        image = Image.fromarray(coarse.squeeze())
        image = image.resize((spec.width, spec.height), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=95)
        encoded.append(content.getvalue())
    return encoded


def _run(*words: object) -> str:
    ended = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=True, cwd=HOME
    )
    return ended.stdout


def _medians(documents: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in documents) for name in documents[0]}


def _said(each: Round) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in each.ratios().items())


def _command(wanted: argparse.Namespace) -> str:
    source = " --source TABLE.parquet" if wanted.source else ""
    return (
        f"python -m loadtest.bench.score --model {wanted.model}{source} --rows {wanted.rows} "
        f"--rounds {wanted.rounds}"
    )


if __name__ == "__main__":
    main()
