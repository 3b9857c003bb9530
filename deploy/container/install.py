"""The image's first stage: install exact versions, delete unneeded files, compile to bytecode.

    install.py packages FOLDER    requirements.txt beside this file, into FOLDER
    install.py compile FOLDER     our own modules in FOLDER
    install.py extension FOLDER   the files _*.c beside this one, into FOLDER, if a compiler is here

Python files are compiled to the hash form that is never checked again: layers do not keep file
times well enough for the usual one, and a root that cannot be written could not mend it.
FOLDER/installed.txt lists every distribution with the SHA-256 of the wheel that it came from, as
``pip install --require-hashes`` reads it. The environment's EXTRA is ``cpu`` or ``gpu``.
"""

import compileall
import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECRETS = Path("/run/secrets")
# Nothing that answers a request imports these; the image's tests run the service without them.
BALLAST = (
    "bin",
    "**/tests",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "onnxruntime/capi/libonnxruntime.so*",  # C's interface; Python's module has it all in itself
    "onnxruntime/transformers",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "numpy/f2py",
    "numpy/distutils",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/random/lib",
)
GPU = "onnxruntime-gpu[cuda,cudnn]"


def install(folder: Path, extra: str) -> None:
    """Install the packages."""
    lines = (HERE / "requirements.txt").read_text().splitlines()
    if extra == "gpu":  # CUDA's libraries come with it, as wheels; the base needs the driver only
        lines = [line for line in lines if not line.startswith("onnxruntime==")] + [GPU]
    wanted = Path("/tmp/wanted.txt")
    report = Path("/tmp/report.json")
    wanted.write_text("\n".join(lines))
    environment = dict(os.environ)
    for variable, secret in (("PIP_CONFIG_FILE", "pip.conf"), ("PIP_CERT", "ca.crt")):
        if (SECRETS / secret).exists():
            environment[variable] = str(SECRETS / secret)
    words = ["--quiet", "--no-cache-dir", "--no-compile", "--disable-pip-version-check"]
    words += ["--root-user-action=ignore", "--target", str(folder), "--report", str(report)]
    words += ["-r", str(wanted), "-c", str(HERE / "constraints.txt")]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], env=environment, check=True)
    (folder / "installed.txt").write_text(_list(json.loads(report.read_text())))
    for pattern in BALLAST:
        for path in sorted(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _list(report: dict) -> str:  # type: ignore[type-arg]
    """Return one line a distribution, from pip's report."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        archive = item["download_info"]["archive_info"]
        digest = archive.get("hashes", {}).get("sha256") or archive["hash"].partition("=")[2]
        lines.append(f"{name.lower()}=={version} --hash=sha256:{digest}\n")
    return "".join(sorted(lines))


def compile_all(folder: Path) -> None:
    """Compile what is there, in the order of names."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, invalidation_mode=unchecked)


def build_extension(folder: Path) -> None:
    """Build the C extensions as pyproject.toml says, for every Python from 3.11 on."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = sysconfig.get_path("include")
    if shutil.which("cc") is None or not Path(headers, "Python.h").is_file():
        print("no C compiler or no Python.h: images are resized by Pillow, in five times the time")
        return
    words = ["-O3", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-s", "-DNDEBUG"]
    words += ["-DPy_LIMITED_API=0x030B0000", f"-I{headers}"]
    for source in sorted(HERE.glob("_*.c")):
        made = folder / f"{source.stem}.abi3.so"
        subprocess.run(["cc", *words, str(source), "-lm", "-o", str(made)], check=True)


if __name__ == "__main__":
    task, target = sys.argv[1], Path(sys.argv[2])
    if task == "packages":
        install(target, os.environ.get("EXTRA", "cpu"))
    if task == "extension":
        build_extension(target)
    else:
        compile_all(target)
