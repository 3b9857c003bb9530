"""The table of formats in the documentation is what is read today."""

import pickle
from pathlib import Path

import pytest

from docs.generate import generated
from scoring.rows import Source
from scoring.sources import list_sources
from tests.scoring.formats_table import PAGE, lines, outcomes
from tests.scoring.kinds import KINDS, ROWS, Kind, write_images

# Kinds that cannot be read, and what the refusal names.
REFUSED = {
    "Feather's version 1": "write it again",
    "no header, a name as `--label-column`": "without a header, columns are numbered",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return outcomes(tmp_path_factory.mktemp("formats"))


def test_every_kind_is_read_whole_or_refused_with_a_reason(found: list[str]) -> None:
    for kind, said in zip(KINDS, found, strict=True):
        if kind.name in REFUSED:
            assert said.startswith("refused: "), kind
            assert REFUSED[kind.name] in said, kind
        else:
            assert said.startswith(f"{ROWS} rows"), (kind.group, kind.name, said)
            right = said.partition("; ")[2].partition(" labels right")[0]
            assert right in ("", f"{ROWS} of {ROWS}", "4 of 4") or "note" in right, (kind, said)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name not in REFUSED and "standard" not in kind.name]
)
def test_a_job_may_go_on_in_another_process_at_any_row(kind: Kind, tmp_path: Path) -> None:
    write_images(tmp_path)
    arguments = [str(each) for each in kind.build(tmp_path)]
    for source in list_sources(arguments, kind.columns):
        again: Source = pickle.loads(pickle.dumps(source))
        whole = ids(source, 0, None)
        assert len(whole) >= ROWS
        assert source.count() in (None, len(whole))
        for start, stop in ((0, None), (2, None), (1, 3), (len(whole), None)):
            assert ids(again, start, stop) == whole[start:stop], (start, stop)


def ids(source: Source, start: int, stop: int | None) -> list[str]:
    return [id_ for chunk in source.chunks(start, stop) for id_ in chunk.ids]


def test_the_page_is_what_came_of_it(found: list[str]) -> None:
    assert generated(PAGE) == lines(found), "run python -m tests.scoring.formats_table"
