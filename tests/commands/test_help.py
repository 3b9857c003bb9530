"""Help, completion and the examples of every command."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from models.image import encode_png
from tests.server import ROOT
from tests.shell import Shell
from tests.test_foveal import COMMANDS, leaves
from tests.tiny import publish_tiny, random_images

FOVEAL = Path(sys.executable).with_name("foveal")
# Of these a test runs the example; the others serve for ever, need torch, or measure for minutes.
_NEED_ANOTHER = ("models upgrade", "models promote")
RUN = (
    "init",
    "predict",
    "score",
    "help",
    "completion",
    "keys add",
    # A promotion wants a second version, an upgrade one of format 1.
    *(name for name in COMMANDS if name.startswith("models ") and name not in _NEED_ANOTHER),
)


def examples(name: str) -> list[list[str]]:
    """The words of a command's examples, after ``foveal``."""
    text = leaves()[name].help.replace("\\\n", " ")
    found = re.findall(r"^ *Example: foveal (.+)$", text, re.MULTILINE)
    assert found, name
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_have_options_that_exist(name: str) -> None:
    for words in examples(name):
        assert words[: len(name.split())] == name.split()
        command: Any = leaves()[name]
        with command.make_context(name, words[len(name.split()) :]):
            pass


@pytest.mark.parametrize("name", RUN)
def test_examples_run(
    name: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        publish_tiny(tmp_path / "models", "fashion-cnn")
    (tmp_path / "photos").mkdir()
    for path in ("boot.png", "photos/a.png"):
        (tmp_path / path).write_bytes(encode_png(random_images(1)[0]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOVEAL_MODELS", "models")
    for words in examples(name):
        if words[-1].endswith(".parquet"):
            pytest.importorskip("pyarrow", reason="the score extra")
        said = shell.plain(*words)
        assert said.code == 0, said
        assert said.out, words


def test_options_stand_under_headings(shell: Shell) -> None:
    """Each that is named in ``headed`` exists, and long commands have no long list."""
    for name, command in leaves().items():
        known = {parameter.name for parameter in command.params}
        headings = getattr(command.callback, "headings", {})
        assert set(headings) <= known, name
        said = shell.plain(*name.split(), "--help").out
        lists = [part.count("\n  -") for part in re.split(r"^[A-Z].*:$", said, flags=re.MULTILINE)]
        assert max(lists) <= 16, (name, lists)
        # Types and defaults as a reader says them, in one form.
        assert not re.search(r"<(str|int|float|list)\b|default: ?\(|\(default", said), said
    said = shell.plain("train", "--help").out
    assert said.index("\nData:\n") < said.index("\nLearning rate:\n") < said.index("\nRun:\n")


def test_summaries_are_whole(shell: Shell) -> None:
    for words in ((), ("models",), ("bench",), ("keys",)):
        said = shell.plain(*words, "--help")
        assert said.code == 0 and "..." not in said.out.partition("Commands:")[2], said
    assert "Serve the models over HTTP; FOVEAL_* variables hold the other\n" in (
        shell.plain("--help").out
    )


def test_help_is_that_of_the_option(shell: Shell) -> None:
    for words in ((), ("train",), ("models", "list"), ("models",)):
        assert shell.plain("help", *words) == shell.plain(*words, "--help")
    said = shell.plain("help", "models", "lst")
    assert (said.code, said.out) == (2, "")
    assert said.error.startswith("foveal models: No such command 'lst'")


def test_version(shell: Shell) -> None:
    said = shell.plain("--version")
    assert re.fullmatch(r"foveal \d+\.\d+\.\d+\n", said.out) and said.code == 0


def complete(line: str, folder: Path) -> list[str]:
    """What a real bash offers after a line, by the script that the command prints."""
    script = f"""
PATH={shlex.quote(str(FOVEAL.parent))}:$PATH
eval "$(foveal completion bash)"
COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
"$(complete -p foveal | sed -E 's/.*-F ([^ ]+) .*/\\1/')" foveal
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert not ended.stderr, ended.stderr
    return ended.stdout.split()


def test_bash_completes_commands_options_choices_and_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(tmp_path, "boots")
    monkeypatch.setenv("FOVEAL_MODELS", str(tmp_path))
    assert complete("foveal mo", tmp_path) == ["models"]
    assert complete("foveal models sha", tmp_path) == ["shadow"]
    assert complete("foveal train --learn", tmp_path) == []
    assert complete("foveal train --lab", tmp_path) == ["--label-column", "--label-smoothing"]
    assert complete("foveal serve --device cu", tmp_path) == ["cuda"]
    assert complete("foveal tune bo", tmp_path) == ["boots"]


# As zsh's own function would be called, here with what Foveal answered printed.
ZSH = """
compdef() {{ :; }}; _arguments() {{ print -r -- "$@"; }}; _files() {{ print files; }}
eval "$(foveal completion zsh)"
words=({line}); CURRENT=${{#words}}; _foveal_completion
"""
FISH = "foveal completion fish | source; complete -C '{line}'"


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "script"), [("zsh", ZSH), ("fish", FISH)])
def test_zsh_and_fish_complete(
    name: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (found := shutil.which(name)):
        pytest.skip(f"no {name}")
    publish_tiny(tmp_path / "models", "boots")
    (tmp_path / "boot.png").touch()
    monkeypatch.setenv("FOVEAL_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PATH", f"{FOVEAL.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))

    def offered(line: str) -> str:
        words = [found, *(["-f"] if name == "zsh" else ["--no-config"])]
        return subprocess.run(
            [*words, "-c", script.format(line=line)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    said = offered("foveal mo")
    assert "List, check and change what a model repository serves" in said, "not cut"
    assert "shadow" in offered("foveal models sha")
    assert "--label-smoothing" in offered("foveal train --lab")
    assert "cuda" in offered("foveal serve --device cu")
    assert "boots" in offered("foveal tune bo")
    assert ("files" if name == "zsh" else "boot.png") in offered("foveal predict bo")


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_names_our_variable(shell: Shell, shell_name: str) -> None:
    said = shell.plain("completion", shell_name)
    assert said.code == 0 and f"_FOVEAL_COMPLETE=complete_{shell_name}" in said.out


def test_what_of_typer_help_leans_on() -> None:
    from typer import completion, core

    assert {"format_help_text", "format_options", "invoke"} <= set(dir(core.TyperCommand))
    assert {"format_commands", "list_commands", "get_command"} <= set(dir(core.TyperGroup))
    assert hasattr(completion, "completion_init") and hasattr(completion, "get_completion_script")
    assert hasattr(typer.Context, "get_help") and (ROOT / "commands" / "help.py").is_file()
