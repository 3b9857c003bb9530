"""The command line, run in this process through the console script's own entry point."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import foveal


class Said(NamedTuple):
    """What a command ended with: exit code, standard output, standard error."""

    code: int
    out: str
    error: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands on one repository.

    Args:
        capsys: Pytest's, of the test.
        models: The repository.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], models: Path) -> None:
        self._capsys = capsys
        self.models = models

    def __call__(self, *words: object, models: Path | None = None) -> Said:
        arguments = [*map(str, words), "--models", str(models or self.models)]
        return self.plain(*arguments)

    def plain(self, *words: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            foveal.main(list(map(str, words)))
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, said.out, said.err)
