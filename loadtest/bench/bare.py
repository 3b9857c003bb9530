"""What a request costs before any work is done for it: a bare server in C that answers fixed bytes.

``bare_server.c`` is compiled with the system's ``cc`` into a temporary folder and runs as a process
of its own, on the cores of the process that starts it. No server on sockets takes less than it;
the honest limit of a case is 1 / (decode + run + what a request costs here).
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import LoadTestError

_SOURCE = Path(__file__).resolve().parent / "bare_server.c"


@dataclass(frozen=True, slots=True)
class BareServer:
    """A running bare server.

    Attributes:
        port: On the loopback.
        pid: Of its process.
    """

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the processor seconds that it has taken, to the nanosecond; Linux only."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9


def compile_bare_server(folder: Path) -> Path:
    """Compile the bare server into a folder; return the program.

    Raises:
        LoadTestError: There is no C compiler, or it fails.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise LoadTestError(
            "bench: expected the C compiler `cc` for the bare server, found none; "
            "install one (Debian's package `gcc`)"
        )
    program = folder / "bare_server"
    words = [compiler, "-O2", "-o", str(program), str(_SOURCE)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise LoadTestError(f"bench: compiling {_SOURCE.name} failed: {said}")
    return program


@contextmanager
def bare_server(program: Path, answer: bytes, connections: int) -> Iterator[BareServer]:
    """Run the bare server.

    Args:
        program: As compiled.
        answer: The bytes of every answer, head included; 1 MiB at most.
        connections: That may wait to be accepted.

    Raises:
        LoadTestError: It does not start.
    """
    with tempfile.TemporaryFile() as content:
        content.write(answer)
        content.seek(0)
        process = subprocess.Popen(
            [program, str(connections)], stdin=content, stdout=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if not said:
            raise LoadTestError("bench: the bare server did not start; its message is above")
        yield BareServer(int(said), process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
