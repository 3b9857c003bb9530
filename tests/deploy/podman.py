"""Podman where the tests run: whether it works here, what it needs, the image to test.

In a sandbox podman may not raise limits above this process's own, and crun does not know a hybrid
cgroup tree: a containers.conf of the tests' own says so, unless CONTAINERS_CONF names one.
"""

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.places import ROOT
from tests.trust import SYSTEM, system_environment

IMAGE = "localhost/foveal-test:latest"
BASE, RUNTIME = "localhost/foveal-base:build", "localhost/foveal-base:runtime"
STOCK = "docker.io/library/python:3.11-slim"


def configure(folder: Path) -> None:
    """Write a containers.conf and let podman find it."""
    if "CONTAINERS_CONF" in os.environ or shutil.which("podman") is None:
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    pids = int(Path("/proc/sys/kernel/pid_max").read_text()) - 1
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = pids if processes == resource.RLIM_INFINITY else min(processes, pids)
    files = 1 << 20 if files == resource.RLIM_INFINITY else files
    limits = f'"nofile={files}:{files}", "nproc={processes}:{processes}"'
    text = f"[containers]\ndefault_ulimits = [{limits}]\n"
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and shutil.which("runc"):
        text += '[engine]\nruntime = "runc"\n'
    path = folder / "containers.conf"
    path.write_text(text)
    os.environ["CONTAINERS_CONF"] = str(path)
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")


def podman(*words: str, is_checked: bool = True, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["podman", *words],
        env=system_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert not is_checked or done.returncode == 0, f"podman {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def code(*words: str) -> int:
    return subprocess.run(
        ["podman", *words], env=system_environment(), capture_output=True, check=False
    ).returncode


def inspect() -> dict[str, Any]:
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    said: dict[str, Any] = image
    return said


def build() -> str:
    """Build the image; return why that cannot be done here, or nothing."""
    if shutil.which("podman") is None:
        return "needs podman"
    environment = {**system_environment(), "ENGINE": "podman", "IMAGE": IMAGE}
    if code("image", "exists", BASE) or code("image", "exists", RUNTIME):
        if code("pull", "--quiet", STOCK) == 0:
            pass
        elif shutil.which("debootstrap") is None or os.geteuid() != 0:
            return f"needs {STOCK}, or root and debootstrap to make a base image"
        else:
            _script("base-image.sh", environment)
    if not code("image", "exists", BASE):
        environment |= {"BASE": BASE, "RUNTIME": RUNTIME}
    bundle = os.environ.get("PIP_CERT") or SYSTEM
    if bundle:
        environment.setdefault("CA", bundle)
    _script("build.sh", environment)
    return ""


def _script(name: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [ROOT / "deploy/container" / name],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
