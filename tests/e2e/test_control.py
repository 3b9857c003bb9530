"""The ports of the service's processes: its own, no other. No other user controls it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.places import BENTOML, ROOT, inherited
from tests.server import RunningServer, free_port

pytestmark = pytest.mark.e2e

is_root_on_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user: Linux, as root"
)
NOBODY = 65534
# circus' protocol: JSON to a ROUTER socket. Prints each endpoint that answers.
ASK = """
import os, sys, zmq
user, command, *endpoints = sys.argv[1:]
if int(user):  # only here: it may not read the interpreter's files
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
for endpoint in endpoints:
    client = zmq.Context().socket(zmq.DEALER)
    client.linger = 500
    client.connect(endpoint)
    client.send(command.encode())
    if client.poll(1500):
        print(endpoint, client.recv().decode())
    client.close()
"""


def ask(command: Mapping[str, object], *endpoints: str, user: int) -> str:
    """Send a command to each endpoint as a user; return what answered.

    circus answers JSON with a status; an answer over HTTP may look like a message to its client.
    """
    message = json.dumps({"id": "1", **command})
    return subprocess.run(
        [sys.executable, "-c", ASK, str(user), message, *endpoints],
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def processes(pid: int) -> list[psutil.Process]:
    main = psutil.Process(pid)
    return [main, *main.children(recursive=True)]


def listening(pid: int) -> set[tuple[str, int]]:
    """Return the addresses that a service's processes listen on, over TCP or bound over UDP."""
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in processes(pid)
        for connection in process.net_connections("inet")
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    }


def unix_listening(pid: int) -> set[str]:
    """Return the paths of the Unix sockets that a service's processes listen on."""
    inodes = set()
    for process in processes(pid):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if found := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    inodes.add(found[1])
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {
        " ".join(row[7:]) or "unnamed"
        for row in rows
        if row[3] == "00010000" and row[6] in inodes  # accepts connections
    }


def test_the_processes_listen_on_the_services_ports_alone(two_workers: RunningServer) -> None:
    pid = two_workers.process.pid
    assert len(processes(pid)) >= 3
    assert listening(pid) == {
        ("127.0.0.1", two_workers.port),
        ("127.0.0.1", two_workers.grpc_port),
    }
    if sys.platform == "linux":
        assert unix_listening(pid) == set()


@is_root_on_linux
def test_another_user_has_no_command_run(two_workers: RunningServer, tmp_path: Path) -> None:
    """As circus' own client would: a watcher more, whose command the supervisor's user runs."""
    mark = tmp_path / "ran"
    endpoints = [f"tcp://{host}:{port}" for host, port in listening(two_workers.process.pid)]
    watcher = {"name": "other", "cmd": "touch", "args": [str(mark)], "start": True}
    command = {"command": "add", "properties": watcher}
    assert '"status"' not in ask(command, *endpoints, user=NOBODY)
    time.sleep(1)
    assert not mark.exists()
    assert '"status"' not in ask({"command": "list"}, *endpoints, user=0)


@pytest.mark.thorough
@is_root_on_linux
def test_reloading_is_controlled_by_its_own_user_alone(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """``--reload`` needs the socket: its plugin is a process that asks for restarts."""
    port, mark = free_port(), tmp_path / "ran"
    environment = {
        **inherited(),
        "FOVEAL_MODELS": str(tiny_repository),
        "FOVEAL_GRPC_PORT": "0",
        "BENTOML_HOME": str(tmp_path / "home"),
        "TMPDIR": "/tmp",
    }
    words = [str(BENTOML), "serve", "service.app:Foveal", "--reload", "--host", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    server = RunningServer(port, process, tmp_path / "log")
    try:
        server.wait_ready()
        assert listening(process.pid) == {("127.0.0.1", port)}
        sockets = [Path(path) for path in unix_listening(process.pid)]
        assert {path.name for path in sockets} == {"control", "events"}
        assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}
        assert {path.parent.stat().st_mode & 0o777 for path in sockets} == {0o700}
        endpoint = f"ipc://{sockets[0].parent}/control"
        assert '"watchers"' in ask({"command": "list"}, endpoint, user=0)
        watcher = {"name": "other", "cmd": "touch", "args": [str(mark)], "start": True}
        command = {"command": "add", "properties": watcher}
        assert ask(command, endpoint, user=NOBODY) == ""
        assert not mark.exists()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not sockets[0].parent.exists()
