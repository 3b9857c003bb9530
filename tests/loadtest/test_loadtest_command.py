import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from loadtest.trial import FIGURES
from tests.server import RunningServer
from tests.shell import Shell
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


class LoadTest:
    """Runs the command in this process: what has locust's patches are processes of its own."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, models: Path
    ) -> None:
        self._shell = Shell(capsys, models)
        self._monkeypatch = monkeypatch

    def __call__(self, *words: object, code: int = 0, as_json: bool = True) -> Any:
        arguments = ["loadtest", *map(str, words), *(["--json"] if as_json else [])]
        self._monkeypatch.setattr(sys, "argv", ["foveal", *arguments])  # what the report repeats
        ended = self._shell.plain(*arguments)
        assert ended.code == code, ended
        return ended.document if as_json else ended


@pytest.fixture
def loadtest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_repository: Path
) -> LoadTest:
    return LoadTest(capsys, monkeypatch, tiny_repository)


class Page(HTMLParser):
    """Headings, pictures and whatever a page would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self.outside: list[str] = []
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for name, value in attrs:
            if name == "src" and value and value.startswith("data:image/png;base64,"):
                self.pictures.append(dict(attrs)["alt"] or "")
            elif name in ("src", "href"):
                self.outside.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._tag in ("h1", "h2") and data.strip():
            self.headings.append(data)


def test_starts_a_service_loads_it_reports_and_stops_it(
    loadtest: LoadTest, tiny_repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    document = loadtest(
        "--start",
        "--models",
        tiny_repository,
        "--users",
        4,
        "--duration-s",
        2,
        "--out",
        out,
        "--expect",
        "errors==0,rps>5",
    )
    figures = document["figures"]
    assert document["model"] == "tiny:1" and tuple(figures) == FIGURES
    assert figures["errors"] == 0 and figures["requests"] > 20
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert document["client"]["limit_per_s"] > 20
    server = document["server"]
    # What the service counted is what the client saw, and what was sent beyond the duration.
    assert figures["requests"] <= server["statuses"]["200"] < 2 * figures["requests"]
    assert server["rows"] == server["statuses"]["200"]
    assert sum(runs for _, runs in server["batch_rows"]) == server["batches"] > 0
    assert server["stages"]["run"]["count"] == server["batches"]
    log = (out / "serve.log").read_text()
    assert "Traceback" not in log and "cleanup" in log, log
    assert "[cli] stopping by SIGTERM" in log, "the supervisor logs"

    page = Page(out / "report.html")
    assert not page.outside, "the page must need nothing else"
    titles = [
        "Latency against throughput",
        "Percentiles over time",
        "Latency of all answers",
        "Outcomes and errors",
        "Batch sizes",
        "Where the time goes",
    ]
    assert [heading for heading in page.headings if heading in titles] == titles
    assert len(page.pictures) == len(titles)
    for words in page.pictures:  # what each shows, in figures
        assert re.search(r"\d", words) and words.endswith("."), words
    assert f"{figures['requests']:,} right" in page.pictures[3]
    assert "What went wrong" in page.headings and "Command" in page.headings
    pictures = sorted(path.name for path in (out / "report").iterdir())
    assert len(pictures) == 6 and all(name.endswith(".png") for name in pictures)
    with (out / "windows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["right"]) for row in rows) == figures["requests"]
    assert json.loads((out / "figures.json").read_text())["figures"] == figures


@pytest.mark.thorough
def test_find_max_searches_open_arrivals(
    loadtest: LoadTest, server: RunningServer, tiny_repository: Path, tmp_path: Path
) -> None:
    document = loadtest(
        server.url,
        "--models",
        tiny_repository,
        "--find-max",
        "--p99-ms",
        500,
        "--rate",
        40,
        "--budget-s",
        6,
        "--duration-s",
        1,
        "--out",
        tmp_path,
    )
    found = document["found"]
    assert found["rate_per_s"] >= 40 and len(found["trail"]) >= 2
    assert document["traffic"]["is_open"]
    assert document["traffic"]["steps"] == [[0.0, found["rate_per_s"]]]
    with (tmp_path / "search.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found["trail"])


@pytest.mark.thorough
def test_a_violated_promise_is_one_line_and_exit_code_1(
    loadtest: LoadTest, server: RunningServer, tiny_repository: Path, tmp_path: Path
) -> None:
    ended = loadtest(
        server.url,
        "--models",
        tiny_repository,
        "--rate",
        30,
        "--duration-s",
        1,
        "--out",
        tmp_path,
        "--expect",
        "p99_ms<0.001, errors==0, rps>100000",
        code=1,
        as_json=False,
    )
    lines = ended.error.splitlines()
    assert len(lines) == 2, lines
    assert re.fullmatch(r"--expect: expected p99_ms<0\.001, got [0-9.e+]+", lines[0])
    assert re.fullmatch(r"--expect: expected rps>100000, got [0-9.]+", lines[1])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--expect", "p99<20"), "expected one of requests, rps"),
        (("--expect", "errors=0"), "expected clauses such as"),
        (("--rows", "3"), "expected 1 for raw images, got 3"),
        (("--users", "3", "--rate", "5"), "expected no --users with open arrivals"),
        (("--users", "3", "--find-max"), "expected no --users with open arrivals"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    loadtest: LoadTest, words: tuple[str, ...], match: str
) -> None:
    ended = loadtest(*words, code=2, as_json=False)
    assert match in ended.error and len(ended.error.splitlines()) == 1, ended.error


@pytest.mark.thorough
def test_another_label_than_the_recorded_one_is_an_error(
    loadtest: LoadTest, server: RunningServer, tmp_path: Path
) -> None:
    # The same name and version as the one that is served, but its answers are turned round.
    publish_tiny(tmp_path / "models", gain=-1.0)
    document = loadtest(
        server.url,
        "--models",
        tmp_path / "models",
        "--rate",
        20,
        "--duration-s",
        1,
        "--out",
        tmp_path / "out",
        code=1,
    )
    assert document["figures"]["wrong"] == document["figures"]["requests"] > 0
    assert all("expected labels" in cause for cause in document["causes"])
    assert "expected labels" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.thorough
def test_mixed_traffic_in_steps_over_locust(
    loadtest: LoadTest, server: RunningServer, tiny_repository: Path, tmp_path: Path
) -> None:
    document = loadtest(
        server.url,
        "--models",
        tiny_repository,
        "--kind",
        "mixed",
        "--rows",
        2,
        "--shape",
        "steps",
        "--rate",
        60,
        "--duration-s",
        2,
        "--engine",
        "locust",
        "--out",
        tmp_path,
    )
    assert document["figures"]["errors"] == 0
    assert [level for _, level in document["traffic"]["steps"]] == [12, 24, 36, 48, 60]
    assert "mixed" in document["command"]


@pytest.mark.thorough
def test_grpc_is_asked_where_it_listens(
    loadtest: LoadTest, tiny_repository: Path, tmp_path: Path
) -> None:
    document = loadtest(
        "--start",
        "--models",
        tiny_repository,
        "--kind",
        "grpc",
        "--rows",
        2,
        "--users",
        2,
        "--duration-s",
        1,
        "--out",
        tmp_path,
    )
    assert document["figures"]["errors"] == 0 and document["figures"]["rows_per_s"] > 0
