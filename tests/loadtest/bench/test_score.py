import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench import score
from tests.server import ROOT


@pytest.mark.slow
def test_the_bench_reports_every_ratio_and_the_rounds_behind_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "loadtest.bench.score",
            "--rows",
            "256",
            "--rounds",
            "2",
            "--model",
            "digits-cnn",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    document = json.loads(ended.stdout.splitlines()[-1])
    (written,) = tmp_path.glob("score_*.json")
    assert json.loads(written.read_text()) == document
    rounds = [score.Round(**each) for each in document["rounds"]]
    assert len(rounds) == 2
    for name, value in document["ratios"].items():
        low, high = sorted(each.ratios()[name] for each in rounds)
        assert low <= value <= high
        assert f"| {name} | {value:.2f} | {score.TARGETS[name]} |" in ended.stdout
    first = rounds[0]
    assert first.ratios()["table / plain script"] == first.table / first.plain
    assert "digits-cnn:2" in written.with_suffix(".md").read_text()
