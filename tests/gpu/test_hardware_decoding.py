"""On a GPU: its JPEG hardware and the kernel give the CPU's rows; what it leaves stays exact."""

import time
from typing import get_args

import numpy as np
import pytest

from loadtest.bench.photo import photograph
from models.artifact import Crop, Filter, ImageSpec, Resize
from models.image import decode
from models.jpeg_scan import SAMPLINGS, can_scan
from models.repository import ModelRepository
from service.session.devices import runtime
from service.session.gpu.cuda_resize import CudaResizer
from service.session.gpu.golden_jpegs import golden_jpegs
from service.session.gpu.open_card import photographs_of
from service.session.gpu.photographs import MOST_BYTES, MOST_IMAGES, Card, Photographs, Ticket
from service.session.gpu.stand_in import StandInDecoder
from service.session.plans import SelectedDevice
from tests.gpu.conftest import HOME

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not can_scan(), reason="needs the compiled scan"),
]
SPEC = ImageSpec("RGB", 224, 224, Resize("shorter", "bilinear", 256, 256), Crop())


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    found = photographs_of(SelectedDevice("cuda", 0, "cuda"), "auto")
    if found is None:
        pytest.skip("nvImageCodec or the JPEG hardware is missing; the log says which")
    return found


class Uploaded(StandInDecoder):
    """Pictures of the CPU's decoder, copied to the device: the kernel without the hardware."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def decode(self, encoded):  # type: ignore[no-untyped-def]
        card, moved = runtime(), []
        card.use(0)
        for surface in super().decode(encoded):
            assert surface is not None
            size = surface.height * surface.row_bytes
            address = card.allocate(size)
            card.copy(address, surface.address, size, self._stream)
            card.call("cudaStreamSynchronize", self._stream)
            moved.append(surface._replace(address=address))
        return moved


@pytest.fixture(scope="module")
def kernel() -> Photographs:
    """The kernel behind the CPU's decoder: works on cards without JPEG hardware, too."""
    pytest.importorskip("cuda.bindings")
    card = runtime()
    card.use(0)
    stream = card.stream()
    return Photographs(Uploaded(stream), CudaResizer(0, stream, MOST_BYTES))


def assert_rows(card: Photographs, spec: ImageSpec, files: list[bytes]) -> int:
    """Compare with the CPU's rows; return how many files got a ticket."""
    model = card.of(spec)
    assert isinstance(model, Card)
    asked = [(each, model.ticket(each)) for each in files]
    taken = [(each, ticket) for each, ticket in asked if isinstance(ticket, Ticket)]
    for first in range(0, len(taken), MOST_IMAGES):
        some = taken[first : first + MOST_IMAGES]
        rows = card.rows([ticket for _, ticket in some])
        for (encoded, _), row in zip(some, rows, strict=True):
            if row is not None:
                np.testing.assert_array_equal(row, decode(encoded, spec))
    return len(taken)


@pytest.mark.parametrize("kind", get_args(Filter))
def test_the_kernel_is_exact_for_every_filter(kernel: Photographs, kind: Filter) -> None:
    files = [photograph(*size) for size in ((427, 640), (640, 427), (97, 131), (1080, 1920))]
    for mode in ("RGB", "L"):
        for side in ("shorter", "longer", "both"):
            spec = ImageSpec(mode, 224, 200, Resize(side, kind, 256, 230), Crop(place="top-left"))
            assert assert_rows(kernel, spec, files) == len(files)


def test_every_kind_passes_the_kernel(kernel: Photographs) -> None:
    assert set(SAMPLINGS) <= kernel.kinds


def test_the_hardware_decodes_the_usual_kinds_exactly(photographs: Photographs) -> None:
    assert {"420", "444"} <= photographs.kinds, sorted(photographs.kinds)
    for size in ((16, 16), (33, 65), (240, 320)):
        spec = ImageSpec("RGB", *size, Resize("both", "lanczos"))
        assert_rows(photographs, spec, [encoded for _, encoded in golden_jpegs()])


def test_a_full_batch_of_photographs_is_exact(photographs: Photographs) -> None:
    files = [photograph(300 + 10 * (at % 8), 400, seed=at % 8) for at in range(MOST_IMAGES)]
    assert assert_rows(photographs, SPEC, files) == len(files)


def test_a_damaged_file_fails_no_other(photographs: Photographs) -> None:
    """Past the scan on purpose: as if the hardware found a fault that the scan does not know."""
    model = photographs.of(SPEC)
    assert model is not None
    good = model.ticket(photograph(427, 640))
    assert isinstance(good, Ticket)
    cut = good._replace(encoded=good.encoded[: len(good.encoded) // 2] + b"\xff\xd9")
    rows = photographs.rows([good, cut, good])
    for row in (rows[0], rows[2]):
        assert row is None or np.array_equal(row, decode(good.encoded, SPEC))
    assert not photographs.is_off
    (after,) = photographs.rows([good])
    assert after is not None, "the card goes on"


def test_photographs_take_less_time_than_on_one_core(photographs: Photographs) -> None:
    """By far: a rate near the CPU's would mean that the hardware does not decode."""
    model = photographs.of(SPEC)
    assert model is not None
    encoded = photograph(427, 640)
    ticket = model.ticket(encoded)
    assert isinstance(ticket, Ticket)
    photographs.rows([ticket] * MOST_IMAGES)
    started = time.perf_counter()
    photographs.rows([ticket] * MOST_IMAGES)
    card_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(4):
        decode(encoded, SPEC)
    assert card_s / MOST_IMAGES < (time.perf_counter() - started) / 4


def test_scoring_decodes_there(photographs: Photographs) -> None:
    local = pytest.importorskip("scoring.local")
    decoding = pytest.importorskip("scoring.decode")
    rows = pytest.importorskip("scoring.rows")
    # Of the shipped models one that decodes no JPEG at a scale.
    model = local.LocalModel.load(ModelRepository(HOME / "models"), "fashion-cnn", device="cuda")
    assert model.card.kinds == photographs.kinds
    files = [photograph(200 + at, 300, seed=at) for at in range(MOST_IMAGES)]
    decoded = decoding.Decoder(model)(rows.Chunk(list(map(str, range(MOST_IMAGES))), files))
    assert decoded.by_card == MOST_IMAGES
    for row, encoded in zip(decoded.pixels_NHWC, files, strict=True):
        np.testing.assert_array_equal(row, model.decode(encoded))
