"""The steps of the GPU check: their commands, limits, and what each cannot do without."""

import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
_FOVEAL = (PYTHON, str(HOME / "foveal.py"))
# The project's own settings of pytest name plugins that may not be on the GPU's machine.
_PYTEST = (
    *(PYTHON, "-m", "pytest", "tests/gpu", "-q", "-ra", "-c", "/dev/null", "--rootdir", "."),
    *("--confcutdir", "tests/gpu", "--import-mode", "importlib", "-p", "no:cacheprovider"),
    *("-o", "markers=gpu: needs a GPU"),
)

_DECODE_S = 95.0


@dataclass(frozen=True, slots=True)
class Step:
    """One process of the check.

    Attributes:
        name: As the table prints it.
        limit_s: Seconds that it has in any case; it is ended when they have passed, and what the
            steps before it left of theirs.
        words: Its command.
        needs: Modules and programs that it cannot do without.
        after: Path that an earlier step leaves and this one reads.
    """

    name: str
    limit_s: float
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    after: Path | None = None


def steps(out: Path, carried: Path | None, *, is_rehearsal: bool) -> list[Step]:
    """Return the steps in order: what others read, then what matters most first.

    Args:
        out: Folder of everything that they write.
        carried: Folder with graphs of lower precision that were converted elsewhere.
        is_rehearsal: Whether they run on the CPU, with small inputs.
    """
    made, models = out / "made", out / "models"
    adopted = models / "resnet50"
    where = ("--device", "cpu" if is_rehearsal else "cuda", "--out", str(out))
    rows = ("--rows", "1,2") if is_rehearsal else ()
    lower = ("--lower", str(carried or made))
    return [
        *_making(out, is_rehearsal=is_rehearsal),
        Step("tests", 70, (*_PYTEST, "--junit-xml", str(out / "tests.xml")), ("pytest",)),
        Step(
            "formats",
            65,
            (*_module("gpu_formats"), *where, *rows, *lower, "--resnet50", str(models)),
        ),
        Step(
            "decode",
            _DECODE_S,
            (
                *(*_module("gpu_decode"), "--out", str(out), "--limit", f"{_DECODE_S - 5:.0f}"),
                *(["--rehearse"] if is_rehearsal else []),
            ),
            ("loadtest.bench.gpu_decode",),
        ),
        Step("serve", 55, _serve(models, where, is_rehearsal=is_rehearsal), ("bentoml",), adopted),
        Step("score", 25, _score(out, is_rehearsal=is_rehearsal), ("typer",), adopted),
        Step("sessions", 40, (*_module("device"), *where, *rows, *lower)),
    ]


def _making(out: Path, *, is_rehearsal: bool) -> list[Step]:
    """Return the steps that make models: a ResNet-50 behind its gate, a graph in float16."""
    made, models = out / "made", out / "models"
    few = ("--divide", "8", "--more", "8") if is_rehearsal else ()
    shipped = sorted((HOME / "models/cifar10-cnn").glob("*/model.onnx"))[-1]
    half = made / "cifar10-cnn.fp16.onnx"
    adopt = (
        *(*_FOVEAL, "adopt", str(made / "resnet50.onnx"), "--name", "resnet50", "--resize", "crop"),
        *("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
        *("--labels", str(made / "labels.txt"), "--images", str(made / "images")),
        *("--precision", "fp16", "--models", str(models)),
    )
    convert = (PYTHON, "-m", "export.convert", str(shipped), str(half))
    return [
        Step("make resnet50", 15, (*_module("resnet50"), str(made), *few), ("onnx",)),
        Step("convert cifar10-cnn", 10, convert, ("onnx",)),
        Step("adopt resnet50", 45, adopt, ("onnx", "typer"), made / "resnet50.onnx"),
    ]


def _serve(models: Path, where: tuple[str, ...], *, is_rehearsal: bool) -> tuple[str, ...]:
    few = ("--seconds", "1", "--precision", "fp32") if is_rehearsal else ()
    return (*_module("gpu_serve"), *where, "--models", str(models), "--model", "resnet50", *few)


def _score(out: Path, *, is_rehearsal: bool) -> tuple[str, ...]:
    how = ("cpu", "fp32", "rehearse") if is_rehearsal else ("cuda", "auto", "auto")
    return (
        *(*_FOVEAL, "score", str(out / "made/more"), "--model", "resnet50"),
        *("--device", how[0], "--precision", how[1], "--gpu-decode", how[2]),
        *("--models", str(out / "models")),
        *("--out", str(out / "scores.csv"), "--overwrite", "--quiet", "--json"),
    )


def _module(name: str) -> tuple[str, ...]:
    return (PYTHON, "-m", f"loadtest.bench.{name}")
