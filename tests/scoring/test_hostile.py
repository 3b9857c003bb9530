"""Small files that announce or expand to gigabytes: bounded memory, one line or one row each."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scoring.local import LocalModel
from tests.scoring.containers import read, run
from tests.scoring.hostile import HOSTILE, MIB, png
from tests.server import ROOT

# Reads each source as a job does, and prints what came of it and what it took: in a process of
# its own, forked after the imports.
READ = """
import json, os, resource, sys
import pyarrow.parquet
from scoring.rows import ScoreError
from scoring.sources import list_sources
from scoring.tables import Columns

LIMIT = 3 << 30

def peak_kib():
    # Its own: what getrusage returns begins with the peak of the process that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def read(path):
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    before = peak_kib()
    rows, errors, refused = 0, [], ""
    try:
        for source in list_sources([path], Columns()):
            for chunk in source.chunks():
                rows += len(chunk.ids)
                for image in chunk.images if isinstance(chunk.images, list) else []:
                    try:
                        image if isinstance(image, bytes | ScoreError) else image.read()
                    except ScoreError as error:
                        image = error
                    errors += [str(image)] if isinstance(image, ScoreError) else []
    except ScoreError as error:
        refused = str(error)
    print(json.dumps([rows, errors[:100], refused, (peak_kib() - before) / 1024]), flush=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        read(line.rstrip())
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Rows, and what the last error or the refusal says.
EXPECTED = {
    "pax-2-gib.tar.gz": (2, "damage after a.png: expected a header of at most 1048576 bytes, got"),
    "global-2-gib.tar.gz": (2, "expected a header of at most 1048576 bytes, got 2147483648"),
    "name-2-gib.tar.gz": (2, "expected a header of at most 1048576 bytes, got 2147483648"),
    "link-2-gib.tar.gz": (2, "expected a header of at most 1048576 bytes, got 2147483648"),
    "many-headers.tar": (2, "damage after a.png: expected at most 8 headers of one file"),
    "digits.tar": (2, "damage after a.png: a damaged header"),
    "map-without-end.tgz": (2, "damage after a.png: unexpected end of data"),
    "one-sample.tgz": (7, ""),
    "bomb.tar.bz2": (2, "expected at most 1000 times its size, got more"),
    "memory.tar.xz": (1, "Memory usage limit"),
    "bomb.tar.zst": (2, "expected at most 1000 times its size, got more"),
    "memory.tar.zst": (1, "Frame requires too much memory"),
    "lying.zip": (1, "Bad CRC-32"),
    "overlapping.zip": (1, "they overlap"),
    "bzip2.zip": (1, "expected a stored or deflated file, got compression bzip2"),
    "encrypted.zip": (1, "got: it is encrypted"),
    "many-rows.npy": (0, "expected 1000000000000 rows, as its header says, got"),
    "many-rows.npz": (0, "expected 1000000000000 rows, as its header says, got"),
    "tiny-rows.npz": (0, "expected 67108864 rows, as its header says, got"),
    "many-labels.npz": (0, "expected labels [100] of whole numbers or text, got int64 [10000000"),
    "few-labels.npz": (0, "expected an array of labels, got: "),
    "long-labels.npz": (0, "expected labels of at most 1024 bytes, got 200000000"),
    "object-labels.npz": (0, "expected labels [100] of whole numbers or text, got object"),
    "long-header.npz": (0, "expected a header of at most 10000 bytes, got 536870912"),
    "deep-header.npy": (0, "expected an array of numpy, got a damaged header"),
    "negative.npy": (0, "expected images of at most 33554432 pixels, got [-5, 8, 8]"),
    "huge-image.npy": (0, "expected images of at most 33554432 pixels, got [0, 1000000, 1000000]"),
    "long-row.csv": (1, "got: a row of more than 8388608 characters"),
    "long-quote.csv": (1, "got: a row of more than 8388608 characters"),
    "long-header.csv": (0, "got: a row of more than 8388608 characters"),
    "dictionary.parquet": (1000, "got: a page of 33554436 bytes, expected at most 100 times its"),
    "prefix.parquet": (64, "expected at most 100 times its"),
    "page.parquet": (8, "table: expected a whole row group 0, got: a page of 536870"),
    "many-rows.parquet": (0, "expected 2097152 rows, as its header says, got a file of "),
    "lists.parquet": (1, "got: lists of 67108865 values, expected at most 100 times their"),
    "batch.arrow": (0, "got: a batch of 31457"),
    "long-line.jsonl": (0, "got: a row of more than 33554432 characters"),
    "long-path.txt": (0, "got: a path of more than 65536 characters"),
    "deep.json": (0, "expected a JSON document, got: "),
    "nul.csv": (1, "expected a readable file, got: embedded null byte"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the path of a hostile file, which is made once."""
    folder = tmp_path_factory.mktemp("hostile")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            HOSTILE[name](path)
        return path

    return make


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", READ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.mark.thorough
def test_a_job_over_hostile_files_finishes(
    model: LocalModel, hostile: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever lies in a folder is rows; the image at its end is reached."""
    folder = tmp_path / "folder"
    folder.mkdir()
    slow = {"bomb.tar.bz2", "map-without-end.tgz", "one-sample.tgz", "long-header.npz"}
    names = [name for name in HOSTILE if name not in slow and not name.endswith(".gz")]
    for name in names:
        (folder / name).hardlink_to(hostile(name))
    (folder / "zebra.png").write_bytes(png())
    summary = run([folder], model, tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert summary.rows == len(rows)
    assert rows[-1]["id"].endswith("zebra.png")
    assert rows[-1]["error"] is None
    for name in names:
        errors = [row["error"] for row in rows if row["id"].startswith(f"{folder}/{name}")]
        assert errors[-1], name


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_never_takes_gigabytes(
    name: str, hostile: Callable[[str], Path], reader: subprocess.Popen[str]
) -> None:
    path = hostile(name)
    assert path.stat().st_size < (20 * MIB if name.endswith("gz") else 600 * MIB)
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write(f"{path}\n")
    reader.stdin.flush()
    said = reader.stdout.readline()
    assert said.startswith("["), f"ended with {said}"
    assert reader.stdout.readline() == "0\n"
    rows, errors, refused, grown_mib = json.loads(said)
    expected_rows, text = EXPECTED[name]
    assert rows == expected_rows
    said = refused or (errors[-1] if errors else "")
    assert text in said, said
    assert len(said) < 500
    assert grown_mib < 400, f"{grown_mib:.0f} MiB"
