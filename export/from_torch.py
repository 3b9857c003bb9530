"""From PyTorch to a graph that ``adopt`` takes: the user's code runs in a process of the user's.

    source -> torch_child (their environment) -> transform, tensors (their pixels are ours?)
           -> the exported graph against their network -> adopt

Legend: N rows, K classes.
"""

import dataclasses
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL

from export.adopt import Request
from export.answers import Expected, are_probabilities, probabilities
from export.apart import read_apart
from export.errors import AdoptError
from export.options import Options
from export.pictures import find_pictures
from export.sandbox import Bounds, run_bounded
from export.scores import find_answer
from export.screen import screen
from export.source import Source, paste
from export.tensors import PixelDifference, choose_spec, measure
from export.transform import Reading, read_transform
from export.variants import write_variants
from export.waiting import Progress, run_watched
from export.weights import size_bytes
from models.artifact import ImageSpec, Resize

logger = logging.getLogger("foveal.adopt")

_CHILD = Path(__file__).with_name("torch_child.py")
# Tensors that are kept to be compared: 150,528 numbers of 4 bytes each, for 224 x 224.
_MOST_TENSORS = 512
# Folder of the files that programs open differently; messages name it.
_MADE = "made-of-the-first-image"
# Its transparent colour is no colour that the contract can say: transformers' CLIP, for one, lays
# it over white where it drops every other transparency.
_PALETTE = "palette.png"
# Files whose pixels choose among the specs that a transform may mean.
_CHOOSING = 4
# Batch sizes of the proof, as of adoption's own.
_BATCH_SIZES = (1, 2, 7)
# Largest difference of a network's output, relative to its largest one: float32 sums in other
# orders differ by 1e-5, a graph that freezes something by 1e-2 and more.
_TOLERANCE = 1e-3
# Of 255: pixels that differ by more are of another transform, not of another way to resize.
_FAR = 32.0


@dataclass(frozen=True, slots=True)
class User:
    """The user's model, and what its code may do.

    Attributes:
        source: The model.
        python: The Python of the environment that it runs in.
        trust_pickle: Whether a pickle, which can run code, may be loaded.
        accept_difference: Whether to publish although pixels differ from the transform's.
    """

    source: Source
    python: str = sys.executable
    trust_pickle: bool = False
    accept_difference: bool = False


@contextmanager
def exported(user: User, request: Request) -> Iterator[Request]:
    """Export a model in its own environment and yield the request that adopts it.

    Args:
        user: The model.
        request: What to adopt otherwise: labels, images and options that the user gave.

    Raises:
        AdoptError: The code fails, the transform cannot be said, or no exporter's graph answers as
            the network does.
    """
    _check_user(user, request)
    with tempfile.TemporaryDirectory(prefix="foveal-adopt-") as name:
        try:
            yield _export(user, request, Path(name))
        except AdoptError as error:
            text = str(error)
            origin = user.source.text
            raise AdoptError(text if text.startswith(origin) else f"{origin}: {text}") from None


def _check_user(user: User, request: Request) -> None:
    source = user.source
    if source.kind == "pickle" and not user.trust_pickle:
        raise AdoptError(
            f"{source.text}: expected no pickle, which can run code, got one; "
            f"{paste(Path(source.path))}; a whole network's: --trust-pickle"
        )
    if source.kind in ("make", "folder", "timm") and not request.images:
        raise AdoptError(
            f"{source.text}: expected --images with some image files, on which the transform is "
            "compared, got none"
        )
    if source.kind in ("make", "folder", "timm") and request.expected is not None:
        raise AdoptError(
            f"{source.text}: expected no --expected, as the network's own answers are what is "
            f"compared, got {request.expected}; name folders as labels to give what is right"
        )
    if shutil.which(user.python) is None:
        raise AdoptError(f"--python: expected a Python, got {user.python!r}, which does not run")


def _export(user: User, request: Request, folder: Path) -> Request:
    images = find_pictures(request.images, ()).files
    files = [path.resolve() for path in images]
    probes = []
    if files:
        (folder / _MADE).mkdir()
        probes = write_variants(files, folder / _MADE)
    step = -(-len(files) // _MOST_TENSORS)
    job = {
        "kind": user.source.kind,
        "path": user.source.path,
        "function": user.source.function,
        "weights": None if user.source.weights is None else str(user.source.weights),
        "trust_pickle": user.trust_pickle,
        "paste": paste(Path(user.source.path)),
        "shape": None if request.options.size is None else [3, *request.options.size],
        "files": [str(path) for path in files],
        "probes": [str(path) for path in probes],
        "kept": list(range(0, len(files), step)) if files else [],
        "memory_bytes": request.bounds.memory_bytes,
    }
    result = _export_proved(user, request.bounds, job, folder)
    if result["was_training"]:
        logger.warning(
            "%s: the network was in training mode; it was exported in evaluation mode",
            user.source.text,
        )
    request = dataclasses.replace(
        request,
        file=folder / "model.onnx",
        origin=user.source.text,
        labels=request.labels or tuple(result["labels"] or ()),
    )
    if result["transform"] is None:
        return request
    kept = [(path, folder / "pixels" / f"{i}.npy") for i, path in enumerate([*files, *probes])]
    pairs = [pair for pair in kept if pair[1].is_file()]
    return _with_transform(user, request, result, images, pairs)


def _export_proved(user: User, bounds: Bounds, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Export by one exporter after the other until a graph answers as the network does."""
    exporters = ["torchscript"] if user.source.kind == "torchscript" else ["dynamo", "torchscript"]
    failures: list[str] = []
    while exporters:
        shutil.rmtree(folder / "pixels", ignore_errors=True)
        result = _run_child(user, bounds, job | {"exporters": exporters}, folder)
        failures += [f"{name}: {text}" for name, text in result["failures"].items()]
        failure = _prove(folder, bounds)
        if failure is None:
            for line in failures:
                logger.info("%s: not exported by %s", user.source.text, line)
            return result
        failures.append(f"{result['exporter']}: {failure}")
        exporters = exporters[exporters.index(result["exporter"]) + 1 :]
    raise AdoptError(
        f"expected an export that answers as the network does, got {'; '.join(failures)}"
    )


def _prove(folder: Path, bounds: Bounds) -> str | None:
    """Compare the exported graph with the network at several batch sizes.

    Returns:
        How it differs, or None.
    """
    rows = np.load(folder / "check-input.npy", allow_pickle=False)
    expected_NK = np.load(folder / "check-output.npy", allow_pickle=False)
    batches = [rows[:size] for size in _BATCH_SIZES]
    try:
        with tempfile.TemporaryDirectory(prefix="foveal-weights-") as name:
            content = read_apart(folder / "model.onnx", Path(name))
            model = screen(content, bounds.memory_bytes // 2, (folder, Path(name)))
            bounds = bounds.beside(size_bytes(model))
            runs = run_bounded(model.SerializeToString(), batches, bounds, Path(name))
    except AdoptError as error:
        return str(error)
    limit = _TOLERANCE * max(1.0, float(np.abs(expected_NK).max()))
    for size, (got, *_) in zip(_BATCH_SIZES, runs, strict=True):
        if got.size != expected_NK[:size].size:
            return f"shape {list(got.shape)} of {size} rows"
        difference = float(np.abs(got.reshape(size, -1) - expected_NK[:size]).max())
        if not difference <= limit:
            return f"a difference of {difference:.3g} in its output at batch size {size}"
    return None


def _run_child(user: User, bounds: Bounds, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the child program and return what it wrote; its own output goes to a log."""
    (folder / "job.json").write_text(json.dumps(job))
    limit_s = 2 * bounds.seconds + 2 * len(job["files"])
    log = folder / "log.txt"
    command = [user.python, str(_CHILD), str(folder)]
    with log.open("w") as output:
        try:
            code, _ = run_watched(
                command,
                limit_s,
                user.source.text,
                lambda: _look(folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its folder is no place to import from; older Pythons do not know the option -P.
                env=os.environ | {"PYTHONSAFEPATH": "1"},
            )
        except subprocess.TimeoutExpired:
            raise AdoptError(f"expected an end within {limit_s} s, got none{_keep(log)}") from None
        except OSError as error:
            raise AdoptError(f"--python: expected a Python, got {user.python}: {error}") from None
    if code == 0:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return result
    raise AdoptError(_explain(user, code, folder, bounds) + _keep(log))


def _look(folder: Path) -> Progress:
    """Return how far the child is, as it wrote it."""
    try:
        done, total, step = (folder / "progress.txt").read_text(errors="replace").split(" ", 2)
        return int(done), int(total) or None, step
    except (OSError, ValueError):  # not yet there, or half written
        return 0, None, ""


def _explain(user: User, code: int, folder: Path, bounds: Bounds) -> str:
    """Return what failed in the child, in one line."""
    try:
        error = json.loads((folder / "error.json").read_text())
    except (OSError, ValueError):
        limit = f"{bounds.memory_bytes / (1 << 30):g} GiB"
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"expected it to run in {user.python} within {limit} (--memory-gib), got {what}"
    if error.get("missing"):
        package = {"PIL": "pillow"}.get(error["missing"], error["missing"])
        install = shlex.join([user.python, "-m", "pip", "install", package])
        return (
            f"expected the package {error['missing']} in {user.python}, got none: give --python "
            f"of the environment that your evaluation runs in, or {install}"
        )
    where = error.get("where")
    if "memory" in error["message"].lower() and where:
        return f"{where}: {error['message']} (--memory-gib sets the limit)"
    return f"{where}: {error['message']}" if where else str(error["message"])


def _keep(log: Path) -> str:
    """Keep the log of a failed run, if it says anything, and return how the message names it."""
    if not log.stat().st_size:
        return ""
    descriptor, name = tempfile.mkstemp(prefix="foveal-adopt-", suffix=".log")
    os.close(descriptor)
    shutil.copy(log, name)
    return f" (traceback: {name})"


def _with_transform(
    user: User,
    request: Request,
    result: dict[str, Any],
    images: tuple[Path, ...],
    pairs: Sequence[tuple[Path, Path]],
) -> Request:
    """Add what the transform says, after its tensors were compared with our pixels."""
    folder = request.file.parent
    reading = read_transform(result["transform"])
    channels, height, width = np.load(pairs[0][1], mmap_mode="r").shape
    if channels not in (1, 3):
        raise AdoptError(f"transform: expected a tensor of 1 or 3 channels, got {channels}")
    options = _options(request.options, reading)
    specs = reading.specs(height, width, channels)
    own = [pair for pair in pairs if folder / _MADE not in pair[0].parents]
    palettes = [pair for pair in pairs if pair[0].name == _PALETTE and pair not in own]
    made = [pair for pair in pairs if pair not in own and pair not in palettes]
    spec = choose_spec(specs, [*own[:_CHOOSING], *made], options)
    difference = on_images = measure(own, spec, options)
    if made:
        difference = on_images.joined(_measure_made(made, images[0], spec, options))
    if palettes and not (of_palette := _measure_made(palettes, images[0], spec, options)).is_none:
        logger.warning(
            "%s: a palette's transparent colour becomes other pixels: they differ by %s",
            user.source.text,
            of_palette,
        )
    if not difference.is_none:
        advice = _advice(reading, result["versions"]["PIL"], on_images)
        _judge(user, reading, spec, difference, advice)
    outputs_NK = np.load(folder / "outputs.npy", allow_pickle=False)
    gives = options.gives or ("probabilities" if are_probabilities(outputs_NK) else None)
    options = dataclasses.replace(options, gives=gives)
    with tempfile.TemporaryDirectory(prefix="foveal-weights-") as name:
        graph = onnx.load_from_string(read_apart(request.file, Path(name)))
    answer = find_answer(graph, options)
    expected = Expected(
        images,
        probabilities(
            outputs_NK, "logits" if answer.probabilities is None else "probabilities", answer.task
        ),
        f"{user.source.text} in {user.python}",
        max_pixel_difference=difference.largest,
        is_difference_accepted=user.accept_difference and not on_images.is_none,
    )
    return dataclasses.replace(request, options=options, image=spec, expected=expected)


def _measure_made(
    pairs: Sequence[tuple[Path, Path]], origin: Path, spec: ImageSpec, options: Options
) -> PixelDifference:
    """Compare tensors of files that were made of one and are gone when a message names them."""
    difference = measure(pairs, spec, options)
    worst = f"{Path(difference.worst).name} made of {origin}"
    return dataclasses.replace(difference, worst=worst)


def _options(given: Options, reading: Reading) -> Options:
    """Return the options of the user with those that the transform says."""
    stated = [
        name
        for name in ("scale", "mean", "std", "channels", "resize", "size", "layout")
        if getattr(given, name) != getattr(Options(), name)
    ]
    if stated:
        raise AdoptError(
            f"--{stated[0]}: expected no such option, as the transform says it; got "
            f"{getattr(given, stated[0])}"
        )
    return dataclasses.replace(
        given,
        layout="NCHW",
        scale=reading.scale,
        mean=tuple(float(value) for value in reading.mean),
        std=tuple(float(value) for value in reading.std),
        channels=reading.channels,
        is_scaled=True,
    )


def _judge(
    user: User,
    reading: Reading,
    spec: ImageSpec,
    difference: PixelDifference,
    advice: str,
) -> None:
    """Refuse pixels that differ, or warn of them where the user accepts that."""
    text = f"pixels differ by {difference}; nearest is {_say(spec)}"
    if reading.unread:
        text = f"not read: {', '.join(reading.unread)}; without it {text}"
    if user.accept_difference:
        logger.warning("%s: transform: %s", user.source.text, text)
        return
    raise AdoptError(
        f"transform: expected one that the contract can say, got another: {text}: {advice}"
    )


def _advice(reading: Reading, pillow: str, on_images: PixelDifference) -> str:
    """Return how to make pixels equal, or what else can be done.

    Args:
        reading: What was read of the transform.
        pillow: The version that the user has.
        on_images: Of the user's own images. None: only the files that were made differ, so how
            they are opened.
    """
    say_it = "say it by Resize, CenterCrop, ToTensor and Normalize"
    if on_images.largest > _FAR:
        return f"{say_it}, or adopt an ONNX file with --resize, --scale, --mean and --std"
    if reading.unread:
        how = say_it
    elif on_images.is_none:
        how = 'open files as Image.open(f).convert("RGB") does, or as viewers show them'
    elif pillow != PIL.__version__:
        how = f"use Pillow {PIL.__version__} there, which resizes here, instead of {pillow}"
    else:
        how = "resize and crop the PIL image, before it becomes a tensor"
    return f"{how}, or publish the nearest with --accept-difference"


def _say(spec: ImageSpec) -> str:
    """Return a geometry in words."""
    crop = f"centre crop {spec.height}x{spec.width}"
    if not isinstance(spec.resize, Resize):
        return crop
    height, width = spec.resized
    return f"{spec.resize.side} resized to {height}x{width} ({spec.resize.filter}), {crop}"
