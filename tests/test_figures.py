"""Every figure of README.md and docs/ stands in the table or log that it links to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "README.md").read_text().partition("## Results\n")[2].partition("\n## ")[0]
ROWS = [row for row in SECTION.splitlines() if row.startswith("| ") and "measured on" not in row]
LINK = r"\(\[\w+\]\(([^)]+)\)\)"
# Numbers that are no result: sizes, counts and names, as they stand in the row.
GIVEN = [
    "640 x 427",
    "MobileNetV3-large at 224",
    "MobileNetV3",
    "16 connections",
    "ResNet-50",
    "int8",
    "float32",
    "12 megapixels",
    "64 connections",
    "V2 binary",
    "64 rows",
    "Triton 2.51",
    "cifar10",
    "one H100",
    "resnet50",
    "TF32",
    "1 worker",
    "12 cores",
    "4 workers",
    "(2026-11)",
    "of 20",
]
# A figure that is rounded, and what it is rounded from.
ROUNDED = {"1.8": "1.76", "2.0": "1.98", "155": "154.9"}
# A comparison, without a figure that a table could have.
WITHOUT_TABLE = "10,000 images scored offline"


def figures(text: str) -> list[str]:
    for given in GIVEN:
        text = text.replace(given, "")
    text = re.sub(r"\d{4}-\d{2}-\d{2}", "", text)
    return re.findall(r"\d[\d,]*(?:\.\d+)?", text)


def parts(row: str) -> list[tuple[str, str]]:
    """The texts of a row, each with the file that the link after it leads to."""
    texts = re.split(LINK, row)
    return list(zip(texts[::2], texts[1::2], strict=False))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_a_row_of_figures_is_that_of_its_table(row: str) -> None:
    if row.startswith(f"| {WITHOUT_TABLE}"):
        assert not re.search(LINK, row)
        return
    linked = parts(row)
    assert linked, f"a row of results without a table: {row}"
    found = 0
    for text, file in linked:
        table = (ROOT / file.partition("#")[0]).read_text()
        cells = re.findall(r"\d[\d,]*(?:\.\d+)?", table)
        for figure in figures(text):
            found += 1
            written = ROUNDED.get(figure.rstrip(","), figure.rstrip(","))
            assert written in cells, f"{file} has no {written}"
    assert found
    assert not figures(re.split(LINK, row)[-1]), "figures behind the last link have no table"


def test_a_row_that_lies_is_found() -> None:
    row = "| a | 91 requests/s ([table](loadtest/bench/results/peers_2026-11-28_0327.md)) |"
    with pytest.raises(AssertionError, match="has no 91"):
        test_a_row_of_figures_is_that_of_its_table(row)


# What docs/ say was measured: words of a page, and the file that it links to and that has their
# figures.
PAGES = sorted((ROOT / "docs").glob("*.md"))
RECORDING = "loadtest/bench/results/record_2026-11-28_1201.md"
MEASURED = {
    "check.md": {
        "names 24 of 58,000 (CIFAR-10) and 3 of 70,000 (Fashion-MNIST)": "training/LOG.md",
        "Of 2 % wrong labels planted": "training/quality/proof.md",
        "Fashion-MNIST, 94 % are": "training/quality/proof.md",
        "Fashion-MNIST correlate by 0.98": "training/LOG.md",
        "556 pairs in CIFAR-10 in place of 9": "training/LOG.md",
    },
    "deploy.md": {"311 MB": "deploy/README.md"},
    "fine-tune.md": {
        "1,000 JPEGs of 640 x 480": "training/LOG.md",
        "42 s on two quiet cores, of which 16 are the features": "training/LOG.md",
    },
    "feedback.md": {
        "1 GiB of 500,000 small images: 5 s of processor time": "service/LOG.md",
        "an unknown id takes 2 ms": "service/LOG.md",
    },
    "gpu.md": {
        "answered 1,550 to 1,841 photographs of 640 x 427 a second": "docs/gpu.md",
        "decoded 10,799 of them a second": "docs/gpu.md",
        "2.1 ms of a core for 185 KB of 640 x 427 pixels": "service/LOG.md",
        "decoding takes 3.3 and its resize 1.0 more": "service/LOG.md",
        "12 cores, some 5,700 such photographs": "service/LOG.md",
    },
    "own-model.md": {
        "40 networks": "tests/adoption/table.md",
        "300 files": "tests/adoption/table.md",
    },
    "promote.md": {
        "In 100 simulated promotions": "service/LOG.md",
        "98 equal candidates were promoted and 100 that are": "service/LOG.md",
        "after about 1200 compared rows": "service/LOG.md",
        "after about 4000 on average": "service/LOG.md",
        "needs some 3700 rows": "service/LOG.md",
        "at least 600 answers": "service/LOG.md",
    },
    "record.md": {
        "0.9945 of the requests/s stayed": RECORDING,
        "0.6770 with all of them, and 0.9817 with all": RECORDING,
        "differed by 0.0052 and 0.0138": RECORDING,
        "Of 100,000 requests": "scoring/replay.md",
        "answered all 100,000": "scoring/replay.md",
    },
    "score.md": {
        "of 750 flipped bits": "models/LOG.md",
        "gave up in 1 %, complained in 24 % and saw nothing in 75 %": "models/LOG.md",
    },
    "serve.md": {
        "0.37 ms where Pillow takes 1.9 (640 x 427": "models/LOG.md",
        "p99 of the small ones 1.4 ms alone, 4.3 beside gRPC, 10 beside forms of 500 files, 24 "
        "beside V2 JSON of 392,000 numbers": "service/LOG.md",
    },
    "train.md": {
        "10,000 photographs at 224 x 224 (1.4 GiB of pixels) take 11 MiB": "training/LOG.md",
        "0.66 GiB with all libraries": "training/LOG.md",
    },
}
# Figures of docs/ that are rounded, and what they are rounded from.
ROUNDED_THERE = {
    "0.0052": "1.0052",
    "0.0138": "1.0138",
    "94": "94.4",
    "1200": "1,194",
    "4000": "3,890",
    "3700": "3,720",
    "600": "595",
}
# Amounts that nobody measured: limits, settings, promises, and what follows from them.
SET = {
    "clients.md": "4 MiB",
    "deploy.md": "60 s, 10 s, 2 s",
    "feedback.md": "1 MiB, 95 %, 2 percentage points",
    "gpu.md": "15 %, 3 %, 150 KB, 1.2 GB, 8,000 rows/s, 192 MiB, 50 MB, 64 MiB, 171 MiB, 128 MiB, "
    "500 MiB, 244 MB, 27 MB, 36 MB, 1.3 GB, 7 MB",
    "metrics.md": "0.2 s",
    "own-model.md": "2 GiB, 255 times, 2.5 times, 300 s",
    "page.md": "5 %",
    "promote.md": "0.5 %, 0.25 %, 93 %, 94 %, 98 %, 1 %, 0.1 %, 5 %, 10 s",
    "protocols.md": "8 KiB, 64 KiB, 6 MiB, 4.5 MB, 50 ms",
    "record.md": "16 MiB, 95 %, 0.5 %, 1 %",
    "score.md": "95 %, 60 seconds, 128 MiB, 1,000 times, 100 times",
    "serve.md": "5 s, 0.25 s, 4 s, 20 ms, 6 s, 2.5 times, 192 MiB, 32 MiB, 1 GiB, 512 MiB, 1 MiB, "
    "30 rows/s, 5 MiB, 2 ms, 0.06 ms, 256 KiB, 16 KiB",
    "train.md": "99 %, 1 GiB",
    "tune.md": "5 %",
}
FIGURE = r"\d+(?:,\d{3})*(?:\.\d+)?"
UNIT = (
    r"(?:%|[mµu]?s\b|[KMG]i?B\b|(?:rows|images|requests)/s|a second\b|times\b|photographs\b|"
    r"percentage points|minutes\b|seconds\b)"
)
RESULTS_OF_THE_GPU = r"## What was measured\n.*?(?=\n## )"


def prose(page: Path) -> str:
    """A page's words in one line: without code, without where links lead, and without results."""
    text = re.sub(RESULTS_OF_THE_GPU, "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "", text)).split())


def results(file: str) -> set[str]:
    """The figures of a file; of a page, those of its results."""
    text = (ROOT / file).read_text()
    found = re.search(RESULTS_OF_THE_GPU, text, re.DOTALL)
    return set(re.findall(FIGURE, found[0] if found else text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_was_measured_stands_in_what_it_links_to(page: Path) -> None:
    words, text = prose(page), page.read_text()
    for said, source in MEASURED.get(page.name, {}).items():
        assert said in words, f"{page.name} does not say: {said}"
        assert source == f"docs/{page.name}" or f"](../{source}" in text, source
        for figure in re.findall(FIGURE, said):
            written = ROUNDED_THERE.get(figure, figure)
            assert written in results(source), f"{source} has no {written}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_any_other_amount_of_a_page_is_known_to_be_set(page: Path) -> None:
    words = prose(page)
    for said in MEASURED.get(page.name, {}):
        words = words.replace(said, "")
    amounts = set(re.findall(rf"(?<![\w.,-]){FIGURE} ?{UNIT}", words))
    known = set(filter(None, SET.get(page.name, "").split(", ")))
    assert amounts - known == set(), "measured? add where (MEASURED); else add it to SET"
    assert known - amounts == set(), "nothing says so any more"
