"""Look at the machine and the installation: ``foveal doctor``."""

import dataclasses
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from commands.console import print_line, show
from commands.help import is_stopped
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository
from commands.serve import HostOption, PortOption

if TYPE_CHECKING:
    from service.settings import Settings

# Instructions that onnxruntime, PyTorch or our own code run faster with, as Linux names them.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "i8mm",
)
# Extra to a package that only it brings.
_EXTRAS = {
    "grpc": "grpc",
    "train": "torch",
    "timm": "timm",
    "adopt": "onnx",
    "score": "pyarrow",
    "remote": "fsspec",
    "ray": "ray",
    "loadtest": "locust",
    "heif": "pillow_heif",
    "opencv": "cv2",
}
_LEAST_FREE_BYTES = 256 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        found: What is there.
        wrong: What would stop a start, and how to mend it; empty if nothing would.
        advice: What works, but not as well as it could, and how to mend it.
    """

    name: str
    found: str
    wrong: str = ""
    advice: str = ""


def doctor(
    models: ModelsOption = SHIPPED,
    port: PortOption = 3000,
    host: HostOption = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Look at all that a start needs, and say what is wrong and how to mend it.

    The exit code is 1 if something would stop a start.

    Example: foveal doctor
    """
    checks = [*_look(models, host, port)]
    wrong = [check for check in checks if check.wrong]
    document = {"is_ok": not wrong, "checks": [dataclasses.asdict(check) for check in checks]}
    lines = [(check.name, check.found) for check in checks]
    show(document, as_json, lines)
    if not as_json:
        for check in checks:
            if check.advice:
                print_line(f"better: {check.name}: {check.advice}")
        for check in wrong:
            print_line(f"wrong: {check.name}: {check.wrong}")
        if not wrong:
            print_line("nothing would stop a start: foveal serve")
    if wrong:
        raise typer.Exit(1)


def _look(models: Path, host: str, port: int) -> Iterator[Check]:
    yield _foveal()
    yield _onnxruntime()
    yield _processor()
    yield _memory()
    yield _decoders()
    yield _resampler()
    yield _extras()
    yield _tried("models", lambda: _models(models))
    settings: list[Settings] = []
    yield _tried("settings", lambda: _settings(models, settings))
    if settings:
        yield _tried("device", lambda: _device(settings[0]))
        yield from _ports(settings[0], host, port)
    yield from (_disk(name, path) for name, path in _folders(models))


def _tried(name: str, look: Callable[[], Check]) -> Check:
    """Return a check, or the message of the error that a start would end with."""
    from commands.console import explain

    try:
        return look()
    except Exception as error:
        message = None if is_stopped(error) else explain(error)
        if message is None:
            raise
        return Check(name, "wrong", message)


def _foveal() -> Check:
    from models.installation import HOME, is_installed, version

    where = "installed in" if is_installed() else "in"
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check("foveal", f"{version()}, {where} {HOME}; {python}")


def _onnxruntime() -> Check:
    from models.installation import how_to_add

    try:
        import onnxruntime
    except ImportError as error:
        if is_stopped(error):
            raise
        return Check("onnxruntime", "none", f"{error}; {how_to_add('cpu')}")
    names = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return Check("onnxruntime", f"{onnxruntime.__version__}: {names}")


def _processor() -> Check:
    from models.machine import available_cpus, cpu_features, cpu_name

    found = cpu_features()
    has = [name for name in _FEATURES if name in found]
    cores = f"{available_cpus()} of {os.cpu_count()} cores may be used"
    return Check("processor", f"{cpu_name()}: {cores}; {', '.join(has) or 'features unknown'}")


def _memory() -> Check:
    from models.machine import available_memory

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mine = available_memory()
    return Check("memory", f"{mine // _MIB:,} of {total // _MIB:,} MiB may be used")


def _decoders() -> Check:
    from PIL import features

    kinds = ("webp", "libtiff", "avif")
    has = [name for name in kinds if features.check(name)]
    heif = ", HEIC" if find_spec("pillow_heif") else ""
    jpeg = f"JPEG by simplejpeg {version_of('simplejpeg')}"
    return Check("decoders", f"{jpeg}; Pillow {version_of('pillow')} with {', '.join(has)}{heif}")


def _resampler() -> Check:
    from models.resample import RESAMPLER

    advice = "the C extension is not built, so large pictures take longer; install a C compiler "
    advice += "and Python's headers, then install Foveal again"
    is_built = RESAMPLER != "pillow"
    return Check("resampler", RESAMPLER, advice="" if is_built else advice)


def _extras() -> Check:
    has = [extra for extra, package in _EXTRAS.items() if find_spec(package)]
    return Check("extras", ", ".join(has) or "none")


def _models(root: Path) -> Check:
    from models.artifact import ArtifactError
    from models.describe import list_entries

    repository = open_repository(root)
    if not repository.names():
        raise ArtifactError(f"{root}: expected a folder of <name>/<version>/, got no model in it")
    entries = list_entries(repository)
    bad = [f"{each.name}:{each.version}: {each.error}" for each in entries if each.error]
    found = f"{len(entries)} versions of {len(repository.names())} models in {root}"
    advice = f"{'; '.join(bad)}: not served" if bad else ""
    return Check(
        "models", found, "no version can be read" if len(bad) == len(entries) else "", advice
    )


def _settings(models: Path, kept: "list[Settings]") -> Check:
    from models.repository import ModelRepository
    from service.access.access import open_access
    from service.settings import load_settings, served_names

    settings = load_settings()
    kept.append(settings)
    open_access(settings)
    served_names(ModelRepository(models), settings.default_model)
    given = sorted(name for name in os.environ if name.upper().startswith("FOVEAL_"))
    return Check("settings", ", ".join(given) or "all as they are by default")


def _device(settings: "Settings") -> Check:
    from service.session.devices import select_device

    selected = select_device(settings.device)
    return Check(
        "device",
        f"{selected.device}, as FOVEAL_DEVICE={settings.device} says",
        advice=(selected.reason if selected.is_fallback else ""),
    )


def _ports(settings: "Settings", host: str, port: int) -> Iterator[Check]:
    from service.launch import check_port
    from service.settings import SettingsError

    wanted = [("HTTP", host, port, "--host and --port")]
    if settings.grpc_port and find_spec("grpc"):
        how = "FOVEAL_GRPC_HOST and FOVEAL_GRPC_PORT, 0 for none"
        wanted.append(("gRPC", os.environ.get("FOVEAL_GRPC_HOST", host), settings.grpc_port, how))
    if settings.metrics_port:
        how = "FOVEAL_METRICS_HOST and FOVEAL_METRICS_PORT"
        address = os.environ.get("FOVEAL_METRICS_HOST", host)
        wanted.append(("metrics", address, settings.metrics_port, how))
    for name, address, number, how in wanted:
        try:
            check_port(address, number, how)
        except SettingsError as error:
            yield Check(f"port of {name}", f"{address}:{number} is taken", str(error))
        else:
            yield Check(f"port of {name}", f"{address}:{number} is free")


def _folders(models: Path) -> Iterator[tuple[str, Path]]:
    yield "disk of the models", models
    yield "disk of temporary files", Path(tempfile.gettempdir())


def _disk(name: str, path: Path) -> Check:
    existing = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    can_write = os.access(existing, os.W_OK)
    found = f"{free // _MIB:,} MiB free in {existing}{'' if can_write else ', read-only'}"
    if free >= _LEAST_FREE_BYTES and can_write:
        return Check(name, found)
    is_temporary = name.endswith("files")
    how = "free some, or set TMPDIR" if is_temporary else "free some before a model is published"
    if not can_write:
        how = (
            "set TMPDIR to one that can be written"
            if is_temporary
            else "publish elsewhere: --models"
        )
    said = f"expected a folder with room that can be written, got {found}; {how}"
    return Check(name, found, wrong=said) if is_temporary else Check(name, found, advice=said)
