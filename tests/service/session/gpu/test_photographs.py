"""Photographs by the card, its decoder a stand-in: never another answer than the CPU's."""

import dataclasses
import io
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.artifact import Crop, ImageSpec, OpenCVResize, Resize
from models.image import decode, encode_png
from models.jpeg_scan import SAMPLINGS, Scan, can_scan
from service.session.gpu import open_card
from service.session.gpu.nvimgcodec import HardwareDecoder, surface_of
from service.session.gpu.photographs import MOST_BYTES, Card, CardError, Photographs, Ticket
from service.session.gpu.resize import Surface
from service.session.gpu.stand_in import StandInDecoder, StandInResizer
from service.session.plans import SelectedDevice

pytestmark = pytest.mark.skipif(not can_scan(), reason="needs the compiled scan")

SPEC = ImageSpec("RGB", 32, 32, Resize("shorter", "bicubic", 40, 40))
RESTARTS = ("444", "422", "420", "grey")


class Scripted(StandInDecoder):
    """Answers as the library documents, good or bad: None for a file, or an exception for all."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.behave()

    def behave(self) -> None:
        """Answer well from now on."""
        self.refused: set[int] = set()  # places in a batch
        self.error: Exception | None = None
        self.is_short = False

    def decode(self, encoded: Sequence[bytes]) -> list[Surface | None]:
        self.asked.append(len(encoded))
        if self.error is not None:
            raise self.error
        pictures = super().decode(encoded)
        kept = [None if at in self.refused else each for at, each in enumerate(pictures)]
        return kept[1:] if self.is_short else kept


class Otherwise(StandInDecoder):
    """One more in one pixel of each picture of an odd kind: 4:2:0."""

    def decode(self, encoded: Sequence[bytes]) -> list[Surface | None]:
        pictures = super().decode(encoded)
        for each, picture in zip(encoded, pictures, strict=True):
            frame = each.index(b"\xff\xc0")
            if picture is not None and each[frame + 9] == 3 and each[frame + 11] == 0x22:
                picture.owner[0, 0, 0] ^= 1
        return pictures


@pytest.fixture(scope="module")
def photographs() -> tuple[Scripted, Photographs]:
    """Compared once, as that takes a second or two."""
    decoder = Scripted()
    return decoder, Photographs(decoder, StandInResizer())


@pytest.fixture
def scripted(photographs: tuple[Scripted, Photographs]) -> Scripted:
    photographs[0].behave()
    return photographs[0]


@pytest.fixture
def card(photographs: tuple[Scripted, Photographs], scripted: Scripted) -> Card:
    assert scripted is photographs[0]
    photographs[1]._failures = 0
    found = photographs[1].of(SPEC)
    assert found is not None
    return found


def jpeg(height: int = 60, width: int = 90, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    encoded = io.BytesIO()
    smooth = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    smooth.convert(mode).save(encoded, "JPEG", **options)
    return encoded.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def ticket(card: Card, encoded: bytes) -> Ticket:
    found = card.ticket(encoded)
    assert isinstance(found, Ticket), found
    return found


def assert_rows(card: Card, files: Sequence[bytes], spec: ImageSpec) -> None:
    rows = card.rows([ticket(card, encoded) for encoded in files])
    for row, encoded in zip(rows, files, strict=True):
        assert row is not None
        np.testing.assert_array_equal(row, decode(encoded, spec))


def test_every_kind_is_compared_at_the_start(card: Card, scripted: Scripted) -> None:
    assert card.kinds == {*SAMPLINGS, *(f"{kind} restarts" for kind in RESTARTS)}
    assert max(scripted.asked) <= card.most_images


def test_a_kind_that_is_decoded_otherwise_stays_on_the_cpu(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = Photographs(Otherwise(), StandInResizer()).of(SPEC)
    assert card is not None
    assert {"420", "420 restarts"}.isdisjoint(card.kinds) and "422" in card.kinds
    assert "stay on the CPU: ['420', '420 restarts']" in caplog.text
    assert card.ticket(jpeg(subsampling=2)) == "kind"
    assert_rows(card, [jpeg(subsampling=0), jpeg(subsampling=1)], SPEC)


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA Runtime failure: '#100'")])
def test_a_card_that_decodes_nothing_is_not_used(
    error: Exception | None,
) -> None:
    decoder = Scripted()
    decoder.error, decoder.refused = error, set(range(64))
    with pytest.raises(CardError if error is None else RuntimeError):
        Photographs(decoder, StandInResizer())


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        dataclasses.replace(SPEC, exif=False),
        ImageSpec("L", 20, 50, Resize("longer", "lanczos"), Crop((200,))),
        ImageSpec("RGB", 64, 64, None, Crop((1, 2, 3), "top-left")),
        ImageSpec("RGB", 30, 41, Resize(filter="nearest")),
    ],
    ids=["crop", "without EXIF", "grey, padded", "no resize", "nearest"],
)
def test_rows_are_the_cpus(spec: ImageSpec) -> None:
    card = open_card.rehearsal().of(spec)
    assert card is not None
    files = [turned(orientation) for orientation in range(1, 9)]
    files += [jpeg(mode="L"), jpeg(100, 40), jpeg(8, 8), jpeg(quality=1), jpeg(quality=100)]
    assert_rows(card, files, spec)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (encode_png(np.zeros((40, 40, 3), np.uint8)), "format"),
        (b"no image", "format"),
        (jpeg(progressive=True), "progressive"),
        (jpeg(mode="CMYK"), "colours"),
        (jpeg()[:-100], "damaged"),
        (jpeg() + b"more", "unusual"),
        (jpeg(1, 3000), "strip"),
    ],
)
def test_what_the_cpu_decodes_is_named(card: Card, encoded: bytes, why: str) -> None:
    assert card.ticket(encoded) == why


def test_a_picture_too_large_for_a_batch_is_the_cpus(card: Card) -> None:
    large = Scan("", 1 << 14, MOST_BYTES // 3 >> 13, "420", has_restarts=False, orientation=1)
    assert card._why_not(large) == "size"


def test_a_narrow_picture_that_becomes_wide_counts_with_what_is_between_the_passes() -> None:
    """Few pixels, and a hundred times as many after the first pass."""
    narrow = jpeg(4000, 8)
    for side, is_taken in ((32, True), (4096, False)):
        card = open_card.rehearsal().of(ImageSpec("RGB", side, side, Resize("both")))
        assert card is not None
        found = card.ticket(narrow)
        assert isinstance(found, Ticket) == is_taken
        assert found == "size" or found.size > 3 * found.pixels


def test_a_picture_that_is_decoded_at_a_scale_is_the_cpus() -> None:
    spec = ImageSpec("RGB", 16, 16, Resize(), scaled_decoding=True)
    card = open_card.rehearsal().of(spec)
    assert card is not None
    assert card.ticket(jpeg(200, 200)) == "scaled"
    assert_rows(card, [jpeg(50, 50)], spec)


def test_a_geometry_of_another_library_is_the_cpus() -> None:
    assert open_card.rehearsal().of(ImageSpec("RGB", 32, 32, OpenCVResize())) is None


def test_what_the_decoder_refuses_is_left_to_the_cpu(card: Card, scripted: Scripted) -> None:
    scripted.refused = {0, 2}
    files = [jpeg(50 + side, 60) for side in range(4)]
    rows = card.rows([ticket(card, encoded) for encoded in files])
    assert [row is None for row in rows] == [True, False, True, False]
    np.testing.assert_array_equal(rows[3], decode(files[3], SPEC))


def test_a_picture_of_another_size_is_left_to_the_cpu(card: Card) -> None:
    wrong = ticket(card, jpeg())._replace(encoded=jpeg(61, 90))
    assert card.rows([wrong]) == [None]


def test_failures_are_left_to_the_cpu_and_end_at_the_third(
    card: Card, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ticket(card, jpeg())
    scripted.error = RuntimeError("cudaErrorLaunchFailure")
    for _ in range(2):
        assert card.rows([asked, asked]) == [None, None]
    scripted.error = None
    assert card.rows([asked])[0] is not None, "a success forgives"
    scripted.is_short = True
    for _ in range(3):
        assert isinstance(card.ticket(jpeg()), Ticket)
        assert card.rows([asked, asked]) == [None, None]
    assert card.ticket(jpeg()) == "off"
    assert "expected 2 pictures, got 1" in caplog.text
    assert caplog.text.count("no JPEG goes there any more") == 1


# The library


class FakeLibrary(types.ModuleType):
    """The parts of ``nvidia.nvimgcodec`` that are used, with the names of its documentation."""

    class BackendKind:
        HW_GPU_ONLY = "hardware"

    class ColorSpec:
        SRGB = "sRGB"

    class SampleFormat:
        I_RGB = "RGB"

    class CodeStream:
        def __init__(self, encoded: bytes) -> None:
            if encoded == b"unparsable":
                raise RuntimeError("nvImageCodec failure: '#3'")
            self.encoded = encoded

    class Decoder:
        def __init__(
            self, *, device_id: int, max_num_cpu_threads: int, backends: list[Any], options: str
        ) -> None:
            assert (device_id, max_num_cpu_threads, backends) == (1, 1, ["hardware"])
            assert ":fancy_upsampling=1" in options

        def decode(self, sources: list[Any], *, params: Any, cuda_stream: int) -> list[Any]:
            assert params == {
                "apply_exif_orientation": False,
                "color_spec": "sRGB",
                "sample_format": "RGB",
            }
            assert cuda_stream == 77
            return [None if s.encoded == b"refused" else device_array() for s in sources]

    @staticmethod
    def Backend(kind: str) -> str:
        return kind

    @staticmethod
    def DecodeParams(**options: Any) -> dict[str, Any]:
        return options


def device_array(
    shape: tuple[int, ...] = (4, 6, 3),
    strides: tuple[int, ...] | None = None,
    kind: str = "|u1",
) -> Any:
    array = {"shape": shape, "strides": strides, "typestr": kind, "data": (4096, False)}
    return types.SimpleNamespace(__cuda_array_interface__=array)


def test_the_library_is_asked_as_it_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", FakeLibrary("nvidia.nvimgcodec"))
    decoder = HardwareDecoder(1, 77)
    good, unparsable, refused, last = decoder.decode([b"1", b"unparsable", b"refused", b"2"])
    assert good is not None and (good.address, good.height, good.width) == (4096, 4, 6)
    assert (unparsable, refused) == (None, None)
    assert last is not None


def test_the_documentation_has_the_names_that_are_used() -> None:
    library = pytest.importorskip("nvidia.nvimgcodec", exc_type=ImportError)
    made = str(library.Decoder.__init__.__doc__)
    assert all(name in made for name in ("device_id", "max_num_cpu_threads", "backends", "options"))
    assert "There is None in returned list" in str(library.Decoder.decode.__doc__)
    params = str(library.DecodeParams.__init__.__doc__)
    names = "apply_exif_orientation", "color_spec", "sample_format"
    assert all(name in params for name in names)
    kinds = library.BackendKind, library.ColorSpec, library.SampleFormat
    assert all(map(hasattr, kinds, ("HW_GPU_ONLY", "SRGB", "I_RGB")))


@pytest.mark.parametrize(
    ("image", "row_bytes"),
    [
        (device_array(), 18),
        (device_array(strides=(32, 3, 1)), 32),
        (device_array(strides=(32, 4, 1)), None),
        (device_array((3, 4, 6)), None),
        (device_array((4, 6)), None),
        (device_array(kind="<u2"), None),
        (None, None),
    ],
)
def test_a_surface_is_rgb_with_any_distance_of_rows(image: Any, row_bytes: int | None) -> None:
    surface = surface_of(image)
    assert (None if surface is None else surface.row_bytes) == row_bytes


def test_without_the_library_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = types.SimpleNamespace(
        use=lambda _index: None, stream=lambda: 77, free_bytes=lambda: 1 << 30
    )
    monkeypatch.setattr(open_card, "runtime", lambda: card)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    open_card._open.cache_clear()
    with caplog.at_level("INFO"):
        assert open_card.photographs_of(SelectedDevice("cuda", 3), "auto") is None
    assert "install foveal[nvimgcodec]" in caplog.text
    assert open_card.photographs_of(SelectedDevice("cuda", 3), "off") is None
    assert open_card.photographs_of(SelectedDevice("cpu"), "auto") is None
