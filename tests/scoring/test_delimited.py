"""CSV as people have it: which delimiter, which header, and rows that break the rules of quotes."""

import gzip
from pathlib import Path

import pytest

from scoring.delimited import CsvSource
from scoring.rows import ScoreError
from scoring.tables import Columns


def source(path: Path, content: str | bytes, columns: Columns | None = None) -> CsvSource:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return CsvSource(str(path), columns or Columns())


def rows(of: CsvSource) -> list[tuple[str, object]]:
    """Ids and true labels; the error instead of a label."""
    return [
        (id_, str(image) if isinstance(image, ScoreError) else truth)
        for chunk in of.chunks()
        for id_, image, truth in zip(chunk.ids, chunk.images, chunk.truths, strict=True)
    ]


LABEL = Columns(label="label")
ENCODINGS = "UTF-8, UTF-16 or Windows-1252"


@pytest.mark.parametrize("before", [0, 20_000])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_table_of_excel_is_read_as_windows_1252(before: int, name: str, tmp_path: Path) -> None:
    """Wherever the first such byte is; ß and a closing quote look like one character of UTF-8."""
    cells = [("x.png", "x")] * before + [("Größe/1.png", "Mädchen"), ("2.png", "„Spaß“ € 3 €")]
    lines = "".join(f"{path};{label}\r\n" for path, label in [("path", "label"), *cells])
    for encoding, notes in (
        ("utf-8", []),
        ("cp1252", [f"{tmp_path}/{name}: it is not UTF-8, and read as Windows-1252"]),
    ):
        content = lines.encode(encoding)
        table = source(tmp_path / name, gzip.compress(content) if "gz" in name else content, LABEL)
        assert rows(table) == cells
        assert table.notes() == [*notes, f"{tmp_path}/{name}: columns are separated by ';'"]
    with pytest.raises(ScoreError, match=f"expected CSV in {ENCODINGS}, got: 'charmap' codec"):
        source(tmp_path / "t.csv", b"path\na\xff\x81.png\n")


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("path,label\na.png,cat\n", ","),
        ("path;label\na.png;cat\n", ";"),
        ("path;label\na,b.png;cat\nc,d.png;dog\n", ";"),
        ("path\tlabel\na.png\tcat\n", "\t"),
        ("path|label\na.png|cat\n", "|"),
        ("path label\na.png cat\n", " "),
        ("path\x01label\na.png\x01cat\n", "\x01"),
        ("path~label\na.png~cat\n", "~"),
        ('path;label\n"a;1.png";cat\n', ";"),
        ("no;path;label\n1;a.png\n2;b.png;cat;more\n", ";"),  # rows of other lengths
        ("path,label\na.png\nb.png,cat,more\n", ","),
    ],
)
def test_the_delimiter_is_found_by_the_header(content: str, delimiter: str, tmp_path: Path) -> None:
    table = source(tmp_path / "t.csv", content, LABEL)
    assert table._delimiter == delimiter
    notes = [f"{tmp_path}/t.csv: columns are separated by {delimiter!r}"]
    assert table.notes() == ([] if delimiter == "," else notes)


@pytest.mark.parametrize(
    "content",
    [
        "image id,breed\na b.png,dog\nc d.png,cat\n",
        "path\na~1.png\nb~2.png\n",
        "path\nDoe, John.png\n",
        "a~1.png\nb~2.png\n",
        "photos/a b.png\nphotos/c d.png\n",
    ],
)
def test_what_is_no_delimiter_is_none(content: str, tmp_path: Path) -> None:
    columns = Columns(image="image id") if content.startswith("image") else Columns()
    assert source(tmp_path / "t.csv", content, columns)._delimiter == ","


def test_a_list_without_a_header_loses_no_row(tmp_path: Path) -> None:
    table = source(tmp_path / "t.csv", "a.png\nb.png\n")
    assert [id_ for id_, _ in rows(table)] == ["a.png", "b.png"]
    assert table.notes() == [f"{tmp_path}/t.csv: it has no header; images are in column 1"]
    (tmp_path / "0001").touch()  # a name without an ending, of a file that is there
    assert [id_ for id_, _ in rows(source(tmp_path / "t.csv", "0001\n0002\n"))] == ["0001", "0002"]
    assert len(rows(source(tmp_path / "t.csv", "photos/1\nphotos/2\n"))) == 2
    assert len(rows(source(tmp_path / "t.csv", "photos\na.png\n"))) == 1, "a name of a column"
    both = source(tmp_path / "t.csv", "cat,x/1.png\ndog,x/2.png\n", Columns(label="1"))
    assert rows(both) == [("x/1.png", "cat"), ("x/2.png", "dog")]
    with pytest.raises(ScoreError, match='a column "label", got 1, 2; without a header, columns'):
        source(tmp_path / "t.csv", "cat,x/1.png\ndog,x/2.png\n", LABEL)
    with pytest.raises(ScoreError, match="name it with --image-column; without a header"):
        source(tmp_path / "t.csv", "a/0.png,x/1.png\nb/0.png,x/2.png\n")
    two = source(tmp_path / "t.csv", "a/0.png,x/1.png\nb/0.png,x/2.png\n", Columns(image="2"))
    assert [id_ for id_, _ in rows(two)] == ["x/1.png", "x/2.png"]


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (['"a 5" screen"', "b"], ['a 5 screen"', "b"]),
        (['"5 inch', "b", "c"], ["5 inch", "b", "c"]),
        (['"5 inch', "b", '"c"', "d"], ["5 inch", "b", "c", "d"]),
        (['"a\nb"', "c"], ["a\nb", "c"]),
        (['"a ""b"" c"', "d"], ['a "b" c', "d"]),
        (["a", '"b'], ["a", "b"]),
    ],
)
def test_a_quote_that_breaks_the_rules_costs_no_other_row(
    lines: list[str], labels: list[str], tmp_path: Path
) -> None:
    content = "".join(f"{i}.png,{line}\n" for i, line in enumerate(lines))
    table = source(tmp_path / "t.csv", f"path,label\n{content}", LABEL)
    assert rows(table) == [(f"{i}.png", label) for i, label in enumerate(labels)]


def test_a_job_that_goes_on_reads_the_same_rows(tmp_path: Path) -> None:
    content = "".join(f'{i}.png,"{i} inch\n' if i % 5 == 0 else f"{i}.png,x\n" for i in range(50))
    for header in ("path,label\n", ""):
        columns = LABEL if header else Columns(label="2")
        table = source(tmp_path / "t.csv", header + content, columns)
        ids = [id_ for chunk in table.chunks() for id_ in chunk.ids]
        assert ids == [f"{i}.png" for i in range(50)]
        for start, stop in ((7, None), (7, 20), (0, 3), (50, None)):
            part = [id_ for chunk in table.chunks(start, stop) for id_ in chunk.ids]
            assert part == ids[start:stop]


def test_names_of_columns_are_found_in_spite_of_spaces(tmp_path: Path) -> None:
    columns = Columns("picture", "true label", "key", (" note", "none"))
    table = source(tmp_path / "t.csv", "key , picture,true label  ,note\n1,a.png,cat,x\n", columns)
    [chunk] = table.chunks()
    assert (chunk.ids, chunk.truths, chunk.kept) == (["1"], ["cat"], [("x", None)])
    assert table.kinds() == {" note": "string"}


def test_damage_is_a_last_row_that_says_so(tmp_path: Path) -> None:
    table = source(tmp_path / "t.csv", "pfad ä\n".encode() + b"a.png\n" * 20_000 + b"b\xff.png\n")
    *good, (id_, error) = rows(table)
    assert id_ == str(tmp_path / "t.csv")
    assert f"expected CSV in {ENCODINGS}, got: 'utf-8' codec can't decode" in str(error)
    packed = gzip.compress(b"path\n" + b"a.png\n" * 50_000)
    table = source(tmp_path / "t.csv.gz", packed[: len(packed) // 2])
    *good, (id_, error) = rows(table)
    assert "later rows are lost" in str(error)
    assert all(id_ == "a.png" for id_, _ in good)
    with pytest.raises(ScoreError, match=f"expected CSV in {ENCODINGS}, got: Not a gzipped file"):
        source(tmp_path / "t.csv.gz", b"path\na.png\n")
