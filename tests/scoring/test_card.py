"""JPEGs decoded by a card, a stand-in for it here: a table is the same with it and without."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.image import encode_png
from models.jpeg_scan import can_scan
from models.repository import ModelRepository
from scoring.decode import Decoder
from scoring.job import Options, score
from scoring.local import LocalModel
from scoring.marks import Marks
from scoring.rows import Chunk
from scoring.stages import OutputOptions
from service.session.gpu.photographs import Photographs
from service.session.gpu.stand_in import FAILS, REFUSED, StandInDecoder, StandInResizer
from tests.models.pictures import large_jpeg
from tests.scoring.containers import read
from tests.server import ROOT

pytestmark = pytest.mark.skipif(not can_scan(), reason="needs the compiled scan")


@pytest.fixture(scope="module")
def with_card(tiny_repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(tiny_repository), "tiny", 1, decoding="rehearse")


BY_CARD = [
    *(large_jpeg(seed) for seed in range(70)),
    large_jpeg(70, "L"),
    large_jpeg(71, quality=9),
]
BY_CPU = [
    large_jpeg(80, progressive=True),
    large_jpeg(81, "CMYK"),
    large_jpeg(82) + b"more",
    large_jpeg(83, comment=REFUSED),
    large_jpeg(84)[:-300],
    large_jpeg(85)[:-300] + b"\xff\xd9",
    b"no image",
    encode_png(np.zeros((200, 200, 3), np.uint8)),
]


def write(folder: Path, files: Sequence[bytes]) -> str:
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(files))
    for at, number in enumerate(order.tolist()):
        (folder / f"{at:03}.jpg").write_bytes(files[number])
    return str(folder)


@pytest.mark.parametrize("strict", [False, True])
def test_the_table_is_that_of_the_cpu(
    with_card: LocalModel, model: LocalModel, tmp_path: Path, *, strict: bool
) -> None:
    folder = write(tmp_path / "files", [*BY_CARD, *BY_CPU])
    options = Options(output=OutputOptions(probabilities=True, strict=strict))
    ours = score([folder], with_card, tmp_path / "ours.parquet", options)
    theirs = score([folder], model, tmp_path / "theirs.parquet", options)
    assert read(tmp_path / "ours.parquet") == read(tmp_path / "theirs.parquet")
    assert (ours.errors, ours.damaged) == (theirs.errors, theirs.damaged)
    assert (ours.by_card, theirs.by_card) == (len(BY_CARD), 0)
    assert (ours.errors, ours.damaged) == ((3, 0) if strict else (2, 1))
    assert f"{len(BY_CARD)} decoded by the GPU" in str(ours)


def test_a_batch_that_fails_is_the_cpus(tiny_repository: Path, model: LocalModel) -> None:
    """With a card of its own: at the third failure nothing goes there any more."""
    own = LocalModel.load(ModelRepository(tiny_repository), "tiny", 1)
    own.card = Photographs(StandInDecoder(), StandInResizer()).of(own.artifact.image)
    good = [large_jpeg(seed) for seed in range(3)]
    failing = [*good, large_jpeg(3, comment=FAILS)]
    counts = []
    for files in (failing, good, failing, failing, failing, good):
        ids = [str(number) for number in range(len(files))]
        decoded = Decoder(own)(Chunk(ids, list(files)))
        expected = np.stack([model.decode(encoded) for encoded in files])
        np.testing.assert_array_equal(decoded.pixels_NHWC, expected)
        counts.append(decoded.by_card)
    assert counts == [0, 3, 0, 0, 0, 0]


class Bounded:
    """The stand-in, with small bounds; notes the batches."""

    most_images, most_bytes = 5, 3 * 3 * 240 * 180

    def __init__(self, card: Any) -> None:
        self._card = card
        self.batches: list[int] = []

    @property
    def kinds(self) -> frozenset[str]:
        kinds: frozenset[str] = self._card.kinds
        return kinds

    def ticket(self, encoded: bytes) -> Any:
        return self._card.ticket(encoded)

    def rows(self, tickets: Sequence[Any]) -> Any:
        self.batches.append(len(tickets))
        return self._card.rows(tickets)


def test_batches_keep_the_cards_bounds(tiny_repository: Path, with_card: LocalModel) -> None:
    own = LocalModel.load(ModelRepository(tiny_repository), "tiny", 1)
    own.card = bounded = Bounded(with_card.card)
    files = [large_jpeg(seed) for seed in range(7)]
    decoded = Decoder(own)(Chunk(list("abcdefg"), list(files)))
    assert bounded.batches == [3, 3, 1]
    assert decoded.by_card == 7
    bounded.batches.clear()
    bounded.most_bytes = 1 << 26
    Decoder(own)(Chunk(list("abcdefg"), list(files)))
    assert bounded.batches == [5, 2]


def test_small_images_are_the_cpus(with_card: LocalModel) -> None:
    small = io.BytesIO()
    Image.new("RGB", (100, 100)).save(small, "JPEG")
    decoded = Decoder(with_card)(Chunk(["small", "large"], [small.getvalue(), large_jpeg(1)]))
    assert (len(decoded.pixels_NHWC), decoded.by_card) == (2, 1)


def test_a_chunk_that_may_have_ended_the_process_is_the_cpus(
    with_card: LocalModel, tmp_path: Path
) -> None:
    """Its batch was on the card, and only its last row had a mark."""
    files = [large_jpeg(seed) for seed in range(3)]
    killed = Marks(tmp_path / "decoding", 1)
    assert killed.begin(0, 66)
    marks = Marks(tmp_path / "decoding", 1)
    for first, by_card in ((64, 0), (0, 3), (67, 3)):
        chunk = Chunk(["a", "b", "c"], list(files), place=(0, first))
        assert Decoder(with_card, marks=marks)(chunk).by_card == by_card


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("rehearse", 0, "1 decoded by the GPU"),
        ("off", 0, "1 rows by tiny:1"),
        ("never", 2, "FOVEAL_GPU_DECODE: expected auto, off or rehearse, got 'never'"),
    ],
)
def test_the_services_setting_says_where(
    tiny_repository: Path, tmp_path: Path, setting: str, code: int, said: str
) -> None:
    (tmp_path / "1.jpg").write_bytes(large_jpeg(1))
    words = [sys.executable, "foveal.py", "score", tmp_path / "1.jpg", "--model", "tiny"]
    words += ["--out", tmp_path / "out.csv", "--models", tiny_repository]
    done = subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        env=os.environ | {"FOVEAL_GPU_DECODE": setting},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert ("decoded by the GPU" in done.stdout) == (setting == "rehearse")
