"""The C extension that resizes only what is kept, against Pillow; and what runs without it."""

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.artifact import Filter
from models.resample import is_down_first
from tests.server import ROOT

Pixels = NDArray[np.uint8]
FILTERS = [kind for kind in get_args(Filter) if kind != "nearest"]
CASES = 2500
Resize = Callable[[Pixels, tuple[int, int], slice, slice, str], Pixels]


def build(folder: Path, environment: Mapping[str, str]) -> list[Path]:
    """Build the extension as an installation does; return the files that came of it."""
    program = (
        "import sys; from setuptools import setup;"
        "sys.argv = ['setup.py', '-q', 'build', '-b', sys.argv[1], 'build_ext', '-b', sys.argv[1]];"
        "setup()"
    )
    words = [sys.executable, "-c", program, str(folder)]
    subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    return list(folder.glob("models/_resample*.so"))


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension, built here from its source: that of the environment may be an older one."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which("cc") is None or not headers.is_file():
        pytest.skip("needs a C compiler and Python's headers")
    built = build(tmp_path_factory.mktemp("extension"), os.environ)
    assert len(built) == 1
    spec = importlib.util.spec_from_file_location("models._resample", built[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["resample", "resample_plain"])
def resize(request: pytest.FixtureRequest, extension: ModuleType) -> Resize:
    """The function for this machine's instructions, and the one for every machine."""
    function = getattr(extension, request.param)

    def call(
        image: Pixels, size: tuple[int, int], rows: slice, columns: slice, kind: str
    ) -> Pixels:
        down = extension.axis(image.shape[0], size[0], rows.start, rows.stop, kind)
        across = extension.axis(image.shape[1], size[1], columns.start, columns.stop, kind)
        shape = rows.stop - rows.start, columns.stop - columns.start, *image.shape[2:]
        part = np.empty(shape, np.uint8)
        channels = image.shape[2] if image.ndim == 3 else 1
        function(image, down, across, channels, is_down_first(image.shape, size), part)
        return part

    return call


def noise(height: int, width: int, channels: int, *, is_harsh: bool = False) -> Pixels:
    """Random pixels; harsh ones are 0 or 255, whose sums leave that range."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    image = np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)
    return np.where(image > 127, np.uint8(255), np.uint8(0)) if is_harsh else image


def pillow(image: Pixels, size: tuple[int, int], kind: str) -> Pixels:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling[kind.upper()]))


def test_every_part_of_every_size_is_pillows(resize: Resize) -> None:
    draw = random.Random(0)

    def side() -> int:
        return draw.randint(1, draw.choice((20, 120, 400)))

    for _ in range(CASES):
        source, size, kind = (side(), side()), (side(), side()), draw.choice(FILTERS)
        rows, columns = (slice(*sorted(draw.sample(range(length + 1), 2))) for length in size)
        image = noise(*source, draw.choice((1, 3)), is_harsh=draw.random() < 0.3)
        got = resize(image, size, rows, columns, kind)
        expected = pillow(image, size, kind)[rows, columns]
        assert (got == expected).all(), (source, size, rows, columns, kind, image.shape)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("source", [(427, 640), (640, 427), (1500, 2000), (1600, 700), (64, 48)])
def test_photographs_are_pillows(resize: Resize, source: tuple[int, int], kind: str) -> None:
    """Shorter side 256, centre 224; 1600 x 700 is the one whose rows Pillow mixes first."""
    image = noise(*source, 3)
    short = min(source)
    size = source[0] * 256 // short, source[1] * 256 // short
    rows, columns = (slice((side - 224) // 2, (side - 224) // 2 + 224) for side in size)
    got = resize(image, size, rows, columns, kind)
    np.testing.assert_array_equal(got, pillow(image, size, kind)[rows, columns])


def test_an_installation_without_a_compiler_goes_on(tmp_path: Path) -> None:
    assert build(tmp_path, {**os.environ, "PATH": str(tmp_path), "CC": "", "CXX": ""}) == []


def test_other_threads_run_meanwhile(extension: ModuleType) -> None:
    """The interpreter never takes its lock away here, so another thread runs only if it is free."""
    image, part = noise(3000, 3000, 3), np.empty((224, 224, 3), np.uint8)
    axis = extension.axis(3000, 224, 0, 224, "lanczos")
    turns, is_over = [0], threading.Event()

    def take_turns() -> None:
        while not is_over.is_set():
            turns[0] += 1
            time.sleep(0)  # gives the lock up

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=take_turns)
    sys.setswitchinterval(60)
    try:
        thread.start()
        for _ in range(100):
            before = turns[0]
            extension.resample(image, axis, axis, 3, False, part)
            if turns[0] > before:
                return
        pytest.fail("the lock was held through 100 calls")
    finally:
        is_over.set()
        sys.setswitchinterval(interval)
        thread.join()


def test_wrong_arguments_are_refused(extension: ModuleType) -> None:
    axis = extension.axis(8, 4, 0, 4, "bilinear")
    image, part = noise(8, 8, 3), np.empty((4, 4, 3), np.uint8)
    for source, begin, end in ((8, 0, 5), (8, 2, 2), (8, -1, 2), (0, 0, 4)):
        with pytest.raises(ValueError, match="axis: expected"):
            extension.axis(source, 4, begin, end, "box")
    with pytest.raises(ValueError, match="got nearest and 0 to 4 of 4"):
        extension.axis(8, 4, 0, 4, "nearest")
    for pixels, channels, out in (
        (image[:7], 3, part),
        (image, 3, part[:3]),
        (image, 1, part),
        (np.empty((8, 8, 4), np.uint8), 4, np.empty((4, 4, 4), np.uint8)),
    ):
        with pytest.raises(ValueError, match="resample: expected 8 x 8 to 4 x 4 pixels"):
            extension.resample(pixels, axis, axis, channels, False, out)
    with pytest.raises(ValueError, match="PyCapsule"):
        extension.resample(image, axis, "another", 3, False, part)
    with pytest.raises(ValueError, match="not C-contiguous"):
        extension.resample(image.swapaxes(0, 1), axis, axis, 3, False, part)


@pytest.mark.parametrize("is_built", [False, True])
def test_pixels_are_the_same_without_the_extension(is_built: bool) -> None:
    """In a process of its own, which cannot import it, or which imports it if it is installed."""
    program = (
        "import sys\n"
        "if sys.argv[1] == 'False':\n"
        "    sys.modules['models._resample'] = None\n"
        "import numpy as np\n"
        "from models.resample import RESAMPLER, resample\n"
        "image = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(90, 120, 3)\n"
        "for kind in sys.argv[2:]:\n"
        "    part = resample(image, (40, 53), (8, 32), (14, 38), kind)\n"
        "    sys.stdout.buffer.write(np.ascontiguousarray(part).tobytes())\n"
        "print(RESAMPLER, file=sys.stderr)\n"
    )
    image = noise(90, 120, 3)
    kinds = get_args(Filter)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(is_built), *kinds],
        cwd=ROOT,
        input=image.tobytes(),
        capture_output=True,
        check=True,
    )
    parts = [pillow(image, (40, 53), kind)[8:32, 14:38].tobytes() for kind in kinds]
    assert ended.stdout == b"".join(parts)
    said = ended.stderr.decode().strip()
    assert said in ("pillow", "plain", "avx2") if is_built else said == "pillow"
