"""The command line, run in this process through the console script's own entry point."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import foveal


class CommandResult(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    error: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands on one repository.

    Args:
        capsys: The fixture of the test.
        models: Default repository of its commands.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], models: Path) -> None:
        self._capsys = capsys
        self.models = models

    def __call__(self, *words: object, models: Path | None = None) -> CommandResult:
        arguments = [*map(str, words), "--models", str(models or self.models)]
        return self.plain(*arguments)

    def plain(self, *words: object) -> CommandResult:
        environment = dict(os.environ)
        try:
            with pytest.raises(SystemExit) as ended:
                foveal.main(list(map(str, words)))
        finally:  # `serve` sets variables for the process that it becomes
            os.environ.clear()
            os.environ.update(environment)
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        assert isinstance(ended.value.code, int)
        return CommandResult(ended.value.code, captured.out, captured.err)
