"""The card's resize without a card: its NumPy twin and its own text, as C, give Pillow's pixels."""

import ctypes
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.artifact import Crop, Filter, ImageSpec, Mode, Place, Resize
from models.geometry import place_of
from models.resample import has_tables
from service.session.gpu.resize import (
    KERNEL,
    Resizing,
    Surface,
    by_numpy,
    can_resize,
    pack,
    resizing,
)

Pixels = NDArray[np.uint8]
Host = Callable[[Sequence[Pixels], Sequence[Resizing]], list[Pixels]]
FILTERS = get_args(Filter)
MODES: tuple[Mode, ...] = ("RGB", "RGB", "L")
CORNERS: tuple[tuple[Mode, Place], ...] = (("RGB", "centre"), ("L", "top-left"))
CASES = 2000
# Pillow's turns that undo an orientation of EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Bytes after each row of a surface, as decoders leave them.
PADDING = 5

pytestmark = pytest.mark.skipif(not has_tables(), reason="needs the compiled resize")


@pytest.fixture
def host(kernel: ctypes.CDLL) -> Host:
    """The kernel's passes, run on the host."""
    run = kernel.resize
    run.argtypes = (ctypes.c_void_p, ctypes.c_uint)

    def call(stored: Sequence[Pixels], each: Sequence[Resizing]) -> list[Pixels]:
        surfaces, middle = [], np.empty(sum(how.middle_bytes for how in each), np.uint8)
        for picture in stored:
            height, width, _ = picture.shape
            memory = np.full((height, width * 3 + PADDING), 77, np.uint8)
            memory[:, : width * 3] = picture.reshape(height, -1)
            surfaces.append(Surface(memory.ctypes.data, height, width, memory.strides[0], memory))
        out = np.full(sum(how.row_bytes for how in each), 99, np.uint8)
        size = len(pack(surfaces, each, 0, 0, 0)[0])
        control = np.empty(size, np.uint8)
        addresses = control.ctypes.data, middle.ctypes.data, out.ctypes.data
        packed, offsets = pack(surfaces, each, *addresses)
        control[:] = np.frombuffer(packed, np.uint8)
        run(control.ctypes.data, len(each))
        return [
            out[offset : offset + how.row_bytes].reshape(how.spec.shape_HWC)
            for offset, how in zip(offsets, each, strict=True)
        ]

    return call


def by_pillow(stored_HWC: Pixels, spec: ImageSpec, orientation: int) -> Pixels:
    """The row as Pillow makes it, which resizes the whole picture."""
    image = Image.fromarray(stored_HWC)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    image = image.convert(spec.mode)
    place = place_of(image.size[::-1], spec)
    if isinstance(spec.resize, Resize):
        image = image.resize(place.size[::-1], Image.Resampling[spec.resize.filter.upper()])
    kept = np.asarray(image)[slice(*place.rows), slice(*place.columns)]
    row = np.empty(spec.shape_HWC, np.uint8)
    row[...] = spec.crop.colour or (0,) * spec.channels
    bottom, right = place.top + kept.shape[0], place.left + kept.shape[1]
    row[place.top : bottom, place.left : right] = kept.reshape(*kept.shape[:2], spec.channels)
    return row


def noise(height: int, width: int, seed: int) -> Pixels:
    """Random pixels; of every second seed 0 or 255, whose sums leave that range."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return pixels if seed % 2 else np.where(pixels < 128, 0, 255).astype(np.uint8)


def random_spec(chance: random.Random) -> ImageSpec:
    """A geometry of the contract: any filter, side, crop, padding, mode."""
    mode: Mode = chance.choice(MODES)
    colour = tuple(chance.randrange(256) for _ in range(3 if mode == "RGB" else 1))
    crop = Crop(
        chance.choice([None, colour]),
        chance.choice(["centre", "top-left"]),
        chance.choice(["half-even", "floor", "trunc"]),
    )
    height, width = chance.choice([(17, 17), (24, 16), (9, 31)])
    resize = Resize(
        chance.choice(["both", "shorter", "longer"]),
        chance.choice(FILTERS),
        chance.choice([None, height + 3]),
        chance.choice([None, width + 5]),
        chance.choice(["down", "half-even"]),
    )
    return ImageSpec(mode, height, width, chance.choice([resize] * 7 + [None]), crop)


def check(host: Host, cases: list[tuple[Pixels, ImageSpec, int]]) -> int:
    """Compare the twin and the kernel's text with Pillow; return how many were no strips."""
    stored, each, expected = [], [], []
    for picture, spec, orientation in cases:
        how = resizing(picture.shape[0], picture.shape[1], orientation, spec)
        if how is None:  # the CPU's
            continue
        stored.append(picture)
        each.append(how)
        expected.append(by_pillow(picture, spec, orientation))
    rows = host(stored, each)
    for picture, how, row, right in zip(stored, each, rows, expected, strict=True):
        where = f"{picture.shape}, {how.orientation}, {how.spec}"
        np.testing.assert_array_equal(by_numpy(picture, how), right, f"NumPy, {where}")
        np.testing.assert_array_equal(row, right, f"resize.cu, {where}")
    return len(each)


def test_random_sizes_and_geometries_are_pillows(host: Host) -> None:
    chance = random.Random(1)
    cases = []
    for seed in range(CASES):
        size = chance.choice([(90, 90), (12, 90), (90, 12), (40, 40), (3, 30)])
        height, width = (chance.randint(1, most) for most in size)
        cases.append((noise(height, width, seed), random_spec(chance), chance.randint(1, 8)))
    count = sum(check(host, cases[first : first + 50]) for first in range(0, CASES, 50))
    assert count > CASES * 0.8


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(("height", "width"), [(227, 340), (900, 20), (31, 33)])
def test_every_filter_is_pillows(host: Host, kind: Filter, height: int, width: int) -> None:
    specs = [
        ImageSpec(mode, 64, 64, Resize(side, kind, 73, 73), Crop(place=place))
        for mode, place in CORNERS
        for side in ("both", "shorter", "longer")
    ]
    picture = noise(height, width, 3)
    cases = [(picture, spec, 1 + at % 8) for at, spec in enumerate(specs)]
    assert check(host, cases) >= len(cases) / 2


def test_a_strip_is_the_cpus() -> None:
    spec = ImageSpec("RGB", 224, 224, Resize("shorter"))
    assert resizing(1, 4000, 1, spec) is None
    assert can_resize(spec)


def test_the_kernel_compiles_for_cards() -> None:
    """NVRTC takes the text as it is, without a card."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        error, program = nvrtc.nvrtcCreateProgram(KERNEL.read_bytes(), b"resize.cu", 0, [], [])
    except RuntimeError as missing:  # the library itself
        pytest.skip(str(missing))
    assert not error.value
    (error,) = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=compute_80"])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not error.value, log.decode()


def test_nvcc_compiles_the_kernel(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    out = tmp_path / "resize.ptx"
    words = [nvcc, "-ptx", "-arch=compute_80", "-Werror=all-warnings", str(KERNEL), "-o", str(out)]
    subprocess.run(words, check=True)
    text = out.read_text()
    assert all(f".entry {name}(" in text for name in ("first_pass", "second_pass"))
