"""V2's statistics of models: what all workers counted together, over all protocols.

Most of it is read back from prometheus-client's files, and costs a request nothing. Only runs by
their exact number of rows are counted here, in a file of the same form beside them.
"""

import asyncio
import contextlib
import functools
import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from service.metrics.families import (
    BATCH_ROWS,
    DECODE_SECONDS,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    RUN_SECONDS,
)
from service.metrics.meters import Meters
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch

Document = dict[str, Any]
# By model, version and name of a sample; those of Prometheus' text.
_Counts = defaultdict[tuple[str, str, str], float]
# By model, version, rows of a run, and what is counted of it.
_Key = tuple[str, str, int, str]

_HISTOGRAMS = (RUN_SECONDS, REQUEST_SECONDS, QUEUE_SECONDS, DECODE_SECONDS, BATCH_ROWS)
_NAMES = frozenset(metric._name for metric in (*_HISTOGRAMS, REQUESTS))
_FAILED = "failed"
_RUNS, _SECONDS, _LAST_MS = "runs", "seconds", "last_ms"


class Statistics:
    """Counts of the service by model, in the terms of V2.

    Args:
        meters: Metrics, flushed before they are read.
        folder: What PROMETHEUS_MULTIPROC_DIR names; None: this process counts alone.
    """

    def __init__(self, meters: Meters, folder: str | None = None) -> None:
        self._meters = meters
        self._folder = Path(folder) if folder else None
        # By model, version and rows: runs, their seconds, and when the last one ended.
        self._runs: dict[tuple[str, int, int], list[float]] = {}
        self._file: Any = None
        if self._folder is not None:
            path = str(self._folder / f"runs_{os.getpid()}.v2")
            self._file = MmapedDict(path)  # type: ignore[no-untyped-call]
            meters.on_flush = self._flush

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Count one finished run."""
        key = classifier.artifact.name, classifier.artifact.version, batch.rows
        counted = self._runs.get(key)
        if counted is None:
            counted = self._runs[key] = [0, 0.0, 0.0]
        counted[0] += 1
        counted[1] += batch.run_s
        counted[2] = time.time()

    async def of(self, classifiers: list[Classifier]) -> Document:
        """Return ``model_stats`` of some classifiers; files are read on a thread."""
        self._meters.flush()
        if self._folder is None:
            counts, runs = _of_this_process(), _merged({}, self._counted())
        else:
            loop = asyncio.get_running_loop()
            counts, runs = await loop.run_in_executor(None, _of_files, self._folder)
        return {"model_stats": [_model(each, counts, runs) for each in classifiers]}

    def _counted(self) -> Iterator[tuple[_Key, float]]:
        """Yield what was counted since the last flush."""
        for (name, number, rows), (count, seconds, at_s) in self._runs.items():
            version = str(number)
            yield (name, version, rows, _RUNS), count
            yield (name, version, rows, _SECONDS), seconds
            yield (name, version, 0, _LAST_MS), round(at_s * 1000)

    def _flush(self) -> None:
        """Add what was counted since the last call to the file, which may be an ended worker's."""
        for key, value in self._counted():
            text = json.dumps(key)
            before, _ = self._file.read_value(text)
            self._file.write_value(text, _both(key, before, value), 0.0)
        self._runs.clear()


def _both(key: _Key, first: float, second: float) -> float:
    return max(first, second) if key[-1] == _LAST_MS else first + second


def _merged(runs: dict[_Key, float], more: Iterable[tuple[_Key, float]]) -> dict[_Key, float]:
    for key, value in more:
        runs[key] = _both(key, runs.get(key, 0), value)
    return runs


def _of_this_process() -> _Counts:
    counts: _Counts = defaultdict(float)
    for metric in (*_HISTOGRAMS, REQUESTS):
        [family] = metric.collect()
        for sample in family.samples:
            if entry := _entry_of(sample.name, sample.labels):
                counts[entry] += sample.value
    return counts


def _of_files(folder: Path) -> tuple[_Counts, dict[_Key, float]]:
    """Sum what all workers wrote; those that ended, too."""
    counts: _Counts = defaultdict(float)
    for path in (*folder.glob("histogram_*.db"), *folder.glob("counter_*.db")):
        for text, value in _values(path):
            if entry := _entry(text):
                counts[entry] += value
    runs: dict[_Key, float] = {}
    for path in folder.glob("runs_*.v2"):
        _merged(runs, ((tuple(json.loads(text)), value) for text, value in _values(path)))
    return counts, runs


def _values(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the entries of a file; of one that a full disk has cut, those before the cut."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, struct.error):
        for text, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            yield text, value


@functools.lru_cache(1 << 16)
def _entry(text: str) -> tuple[str, str, str] | None:
    """Return where the value of a key of prometheus-client's files counts; None: nowhere."""
    metric, name, labels, _ = json.loads(text)
    if metric not in _NAMES:
        return None
    # Files hold each bucket's own count; their sum is the count of all.
    return _entry_of(name.replace("_bucket", "_count"), labels)


def _entry_of(name: str, labels: dict[str, str]) -> tuple[str, str, str] | None:
    if name.endswith("_total"):
        name = _FAILED if labels["status"] >= "400" else ""
    return (labels["model"], labels["version"], name) if name else None


def _model(classifier: Classifier, counts: _Counts, runs: dict[_Key, float]) -> Document:
    name, version = classifier.artifact.name, str(classifier.artifact.version)

    def totals(metric: Any) -> tuple[int, float]:
        count = counts[name, version, f"{metric._name}_count"]
        return round(count), counts[name, version, f"{metric._name}_sum"]

    executions, seconds = totals(RUN_SECONDS)
    request_count, request_s = totals(REQUEST_SECONDS)
    failed = round(counts[name, version, _FAILED])
    sizes = sorted(key[2] for key in runs if key[:2] == (name, version) and key[3] == _RUNS)
    return {
        "name": name,
        "version": version,
        "last_inference": round(runs.get((name, version, 0, _LAST_MS), 0)),
        "inference_count": round(totals(BATCH_ROWS)[1]),
        "execution_count": executions,
        "inference_stats": {
            "success": _leaf(max(request_count - failed, 0), request_s),
            "fail": _leaf(failed, 0.0),
            "queue": _leaf(*totals(QUEUE_SECONDS)),
            "compute_input": _leaf(*totals(DECODE_SECONDS)),
            "compute_infer": _leaf(executions, seconds),
            "compute_output": _leaf(executions, 0.0),
            "cache_hit": _leaf(0, 0.0),
            "cache_miss": _leaf(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _leaf(count := round(runs[name, version, size, _RUNS]), 0.0),
                "compute_infer": _leaf(count, runs.get((name, version, size, _SECONDS), 0.0)),
                "compute_output": _leaf(count, 0.0),
            }
            for size in sizes
        ],
    }


def _leaf(count: int, seconds: float) -> Document:
    return {"count": count, "ns": round(seconds * 1e9)}
