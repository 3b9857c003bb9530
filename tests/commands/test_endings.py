"""How commands end when they are stopped, or cannot write: one line, and a code."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands.console import explain
from models.image import encode_png
from tests.server import ROOT
from tests.shell import Shell
from tests.tiny import random_images

_MORE_THAN_A_PIPE = 1 << 17
WORDS = [sys.executable, str(ROOT / "foveal.py")]


def in_shell(
    command: str, tiny_repository: Path, **options: object
) -> "subprocess.CompletedProcess[str]":
    """Run a pipeline in bash, where ``$foveal`` is the command."""
    environment = {**os.environ, "foveal": " ".join(WORDS), "FOVEAL_MODELS": str(tiny_repository)}
    environment |= {name: str(value) for name, value in options.items()}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_device_is_one_line(tiny_repository: Path, unbuffered: str) -> None:
    for command in ("$foveal models list > /dev/full", "$foveal help train > /dev/full"):
        ended = in_shell(command, tiny_repository, PYTHONUNBUFFERED=unbuffered)
        assert ended.returncode == 1
        assert ended.stderr == (
            "foveal: expected room for what is written, got: No space left on device; free some, "
            "or write elsewhere\n"
        )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(tiny_repository: Path, unbuffered: str) -> None:
    command = "$foveal models list --json | true; echo ${PIPESTATUS[0]}"
    # The pipe is closed before anything is written into it.
    command = command.replace("| true", "| { exec <&-; cat /dev/null; }")
    ended = in_shell(f"sleep 0; {command}", tiny_repository, PYTHONUNBUFFERED=unbuffered)
    assert (ended.stdout, ended.stderr) == ("141\n", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(shell: Shell, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for words in (("keys", "add", "a", "--file", tmp_path / "keys.toml"), ("init", tmp_path / "a")):
        said = shell.plain(*words)
        assert said.code == 1 and len(said.error.splitlines()) == 1


def test_no_folder_for_what_is_written_is_one_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (
        ("keys", "add", "a", "--file", tmp_path / "file" / "keys.toml"),
        ("init", tmp_path / "file" / "a"),
    ):
        said = shell.plain(*words)
        assert said.code == 1 and len(said.error.splitlines()) == 1, said


def test_a_folder_that_cannot_be_filled_is_left_as_it_was(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """A file may have 8 KiB, and a model has more: the next try finds what this one did."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").touch()
    for folder in ("old", "new"):
        command = f"cd {shlex.quote(str(tmp_path))}; ulimit -f 8; $foveal init {folder}"
        ended = in_shell(command, tiny_repository)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert re.fullmatch(rf"{folder}/models/.+: File too large\n", ended.stderr), ended.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "notes.txt"]


def test_words_of_our_own_and_of_the_system_are_said_once() -> None:
    own = OSError(errno.EACCES, "expected a folder to write, got a file; set --out", "a")
    system = OSError(errno.EACCES, os.strerror(errno.EACCES), "b")
    assert explain(own) == "a: expected a folder to write, got a file; set --out"
    assert explain(system) == "b: expected one that this user may use, got Permission denied"


def test_what_bentoml_says_of_ctrl_c_is_not_shown(tmp_path: Path) -> None:
    """In the import of a compiled module it comes out as an error of that."""
    script = (
        "from service.launch import become_bentoml\n"
        "calls = []\n"
        "def last():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2: raise SystemExit(130)\n"
        f"words = ['serve', 'nothing:Nothing', '--working-dir', {str(tmp_path)!r}]\n"
        "become_bentoml([*words, '--port', '0'], last)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130
    assert "Failed to" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("words", "target", "match"),
    [
        (("predict", "a.png"), "scoring.predictions.predict_files", "foveal predict: stopped"),
        (
            ("tune", "tiny"),
            "loadtest.tune.pipeline.tune_model",
            "foveal tune: stopped by Ctrl-C; measurements so far are kept; repeat the command",
        ),
        (
            ("check", "digits"),
            "training.quality.pipeline.list_dataset",
            "foveal check: stopped by Ctrl-C; no report was written; repeat the command",
        ),
        (
            ("models", "verify"),
            "scoring.local.verify",
            "foveal models verify: stopped by Ctrl-C; repeat the command",
        ),
    ],
)
def test_ctrl_c_says_what_was_kept(
    words: tuple[str, ...],
    target: str,
    match: str,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words[0] == "check":
        pytest.importorskip("torch", reason="the train extra")

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(encode_png(random_images(1)[0]))
    monkeypatch.setattr(target, stop)
    said = shell(*words)
    assert (said.code, said.out) == (130, "")
    assert said.error.startswith(match) and len(said.error.splitlines()) == 1


def test_ctrl_c_within_an_import_is_no_other_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled module that is interrupted as it loads fails to load."""

    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "onnxruntime":
                try:
                    signal.raise_signal(signal.SIGINT)
                except KeyboardInterrupt:
                    raise ImportError("import numpy failed") from None

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    said = shell("doctor")
    assert (said.code, said.out) == (130, "")
    assert said.error == "foveal doctor: stopped by Ctrl-C; repeat the command\n"


def test_ctrl_c_of_a_process_is_one_line(tiny_repository: Path, tmp_path: Path) -> None:
    """The real signal, to a command that waits for its standard input."""
    process = subprocess.Popen(
        [*WORDS, "score", "-", "--model", "tiny", "--out", str(tmp_path / "a.csv")],
        env={**os.environ, "FOVEAL_MODELS": str(tiny_repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("\n" * _MORE_THAN_A_PIPE)  # returns when the command has read of it
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert error == "foveal score: stopped; finished rows are kept: add --resume to go on\n"


def test_ctrl_c_before_there_is_a_command_prints_nothing() -> None:
    """The first packages take most of the time of a short command."""
    script = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "import foveal"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
