"""Files that systems and tools leave beside images are no rows, but counted."""

import io
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from models.junk import is_junk
from scoring.job import Options, score
from scoring.local import LocalModel
from scoring.stages import OutputOptions
from tests.scoring.containers import as_npz, read, run
from tests.shell import Shell
from tests.tiny import random_images

JUNK = (
    *("Thumbs.db", "cat/desktop.ini", "_SUCCESS", "README.md", "cat/README", "LICENSE.txt"),
    *(".DS_Store", "cat/._a.png", "__MACOSX/cat/._a.png", "cat/@eaDir/a.png", "_committed_17"),
)


@pytest.mark.parametrize("name", JUNK)
def test_junk_is_told_by_its_name(name: str) -> None:
    assert is_junk(name)


@pytest.mark.parametrize(
    "name", ["a.png", "_DSC1234.jpg", "readme.png", "thumbs/a.png", "a", "notes.txt", "_a/b.jpg"]
)
def test_what_may_be_an_image_is_no_junk(name: str) -> None:
    assert not is_junk(name)


@pytest.fixture
def folder(files: list[Path], tmp_path: Path) -> Path:
    """Two images among junk."""
    folder = tmp_path / "all"
    for name in JUNK:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xd0\xcf\x11\xe0")
    for i, name in enumerate(("cat/a.png", "dog/2021/b.PNG")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[i].read_bytes())
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    return folder


def packed(folder: Path, path: Path) -> Path:
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(folder / name, name)
    else:
        with tarfile.open(path, "w") as tar:
            for name in names:
                tar.add(folder / name, f"./{name}")
    return path


@pytest.mark.parametrize("kind", ["folder", "pattern", "zip", "tar", "url", "list"])
def test_junk_is_passed_over_and_counted(
    kind: str, folder: Path, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: dict[str, Path | str] = {
        "folder": folder,
        "pattern": folder / "*",
        "zip": packed(folder, tmp_path / "a.zip"),
        "tar": packed(folder, tmp_path / "a.tar"),
        "url": "memory://all",
        "list": "-",
    }
    names = [str(file) for file in folder.rglob("*") if file.is_file() and ".git" not in str(file)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(folder), "/all", recursive=True)
        summary = run([sources[kind]], model, tmp_path / "out.csv")
    finally:
        memory.store.clear()
    # A pattern does not match hidden names; a list is not looked at beyond each name.
    expected = {"pattern": len(JUNK) - 1, "list": len(JUNK) - 1}.get(kind, len(JUNK))
    assert (summary.rows, summary.errors) == (2 + (kind == "list"), 0 + (kind == "list"))
    assert summary.passed_over == expected
    assert f", {expected} other files passed over, " in str(summary)


def test_strict_makes_it_an_error(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    options = Options(output=OutputOptions(strict=True))
    for source in (folder, packed(folder, tmp_path / "a.zip")):
        out = tmp_path / f"{source.name}.csv"
        summary = score([str(source)], model, out, options)
        assert (summary.rows, summary.errors) == (2 + len(JUNK), len(JUNK))
        assert summary.passed_over == 0


def test_the_command_ends_well_beside_junk(shell: Shell, folder: Path, tmp_path: Path) -> None:
    words = ("score", folder, "--model", "tiny", "--out", tmp_path / "out.csv", "--overwrite")
    said = shell(*words, "--json")
    assert (said.code, said.document["passed_over"]) == (0, len(JUNK))
    assert shell(*words, "--strict").code == 3


def test_junk_that_is_named_is_a_row(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    summary = run([folder / "Thumbs.db"], model, tmp_path / "out.csv")
    assert (summary.rows, summary.errors) == (1, 1)


def test_nothing_but_junk_says_so(folder: Path, shell: Shell, tmp_path: Path) -> None:
    said = shell("score", folder / "__MACOSX", "--model", "tiny", "--out", tmp_path / "out.csv")
    assert said.code == 1
    assert said.error.startswith("sources: expected at least one image, got 1 files that are none")


def test_several_patterns_match_in_any_case(
    folder: Path, shell: Shell, files: list[Path], tmp_path: Path
) -> None:
    (folder / "c.JPEG").write_bytes(files[2].read_bytes())
    (folder / "notes.txt").write_text("x")
    out = tmp_path / "out.csv"
    words = ("score", folder, "--model", "tiny", "--out", out, "--overwrite")
    assert shell(*words, "--glob", "*.png", "--glob", "*.Jpeg").code == 0
    ids = [row["id"].removeprefix(f"{folder}/") for row in read(out)]
    assert ids == ["c.JPEG", "cat/a.png", "dog/2021/b.PNG"]
    assert shell(*words, "--glob", "CAT/*.png").code == 0
    assert len(read(out)) == 1


def test_sparks_folder_of_parts_is_one_table(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    folder = tmp_path / "t.parquet"
    for i, part in enumerate(("label=cat/part-0.snappy.parquet", "label=dog/part-1.parquet")):
        (folder / part).parent.mkdir(parents=True)
        table = pyarrow.table({"image": [file.read_bytes() for file in files[2 * i : 2 * i + 2]]})
        pyarrow.parquet.write_table(table, folder / part)
    for name in ("_SUCCESS", "._SUCCESS.crc", "_metadata", "_common_metadata", "_started_9"):
        (folder / name).write_bytes(b"PAR1")
    summary = run([folder], model, tmp_path / "out.csv")
    assert (summary.rows, summary.errors, summary.passed_over) == (4, 0, 5)


def test_an_image_is_told_by_its_bytes(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a.csv", "b.parquet", "c.zip", "d.npy", "e.tar", "f.txt", "g"):
        (folder / name).write_bytes(files[0].read_bytes())
    as_npz(folder / "h.npz", random_images(1))
    for sources in ([folder], sorted(folder.iterdir())):
        summary = run(list(sources), model, tmp_path / "out.csv")
        assert (summary.rows, summary.errors) == (8, 0)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("1.data", files[0].read_bytes()),
            ("1.cls", b"3"),
            ("1.json", b"{}"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    summary = run([tmp_path / "a.tar"], model, tmp_path / "out.csv")
    assert (summary.rows, summary.errors) == (1, 0)
    assert summary.accuracy is not None
