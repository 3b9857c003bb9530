"""JPEGs decoded by a card, a stand-in for it here: a table is the same with it and without."""

import io
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
from tests.scoring.containers import read

pytestmark = pytest.mark.skipif(not can_scan(), reason="needs the compiled scan")


@pytest.fixture(scope="module")
def with_card(tiny_repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(tiny_repository), "tiny", 1, decoding="rehearse")


def photograph(seed: int, mode: str = "RGB", **options: Any) -> bytes:
    few = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(few).resize((240, 180), Image.Resampling.BICUBIC).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **options)
    return encoded.getvalue()


BY_CARD = [
    *(photograph(seed) for seed in range(70)),
    photograph(70, "L"),
    photograph(71, quality=9),
]
BY_CPU = [
    photograph(80, progressive=True),
    photograph(81, "CMYK"),
    photograph(82) + b"more",
    photograph(83, comment=REFUSED),
    photograph(84)[:-300],
    photograph(85)[:-300] + b"\xff\xd9",
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
    good = [photograph(seed) for seed in range(3)]
    failing = [*good, photograph(3, comment=FAILS)]
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
    files = [photograph(seed) for seed in range(7)]
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
    decoded = Decoder(with_card)(Chunk(["small", "large"], [small.getvalue(), photograph(1)]))
    assert (len(decoded.pixels_NHWC), decoded.by_card) == (2, 1)


def test_a_chunk_that_may_have_ended_the_process_is_the_cpus(
    with_card: LocalModel, tmp_path: Path
) -> None:
    """Its batch was on the card, and only its last row had a mark."""
    files = [photograph(seed) for seed in range(3)]
    killed = Marks(tmp_path / "decoding", 1)
    assert killed.begin(0, 66)
    marks = Marks(tmp_path / "decoding", 1)
    for first, by_card in ((64, 0), (0, 3), (67, 3)):
        chunk = Chunk(["a", "b", "c"], list(files), place=(0, first))
        assert Decoder(with_card, marks=marks)(chunk).by_card == by_card
