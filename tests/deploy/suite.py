"""The end-to-end suite once more, against what is shipped."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.places import ROOT

E2E = "tests/e2e/"
# What a client sees: every form of a request, every refusal, Triton's clients, README's examples.
ANSWERS = (
    f"{E2E}test_predict.py",
    f"{E2E}test_classify.py",
    f"{E2E}test_v2_clients.py",
    f"{E2E}test_readme_v2.py",
)
# What an operator sees: stop under load, wrong models, several workers.
STOPS = (
    f"{E2E}test_lifecycle.py::test_stop_under_load_answers_every_request",
    f"{E2E}test_lifecycle.py::test_stop_answers_what_waits_and_refuses_what_is_new",
    f"{E2E}test_lifecycle.py::test_stop_cuts_who_never_finishes",
    f"{E2E}test_lifecycle.py::test_two_workers_give_the_same_bytes",
)


def run_suite(place: str, folder: Path, *words: str) -> int:
    """Run tests against a place (see ``tests/places.py``); return how many passed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--basetemp={folder / 'suite'}", *words],
        cwd=ROOT,
        env={**os.environ, "FOVEAL_TEST_PLACE": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    return int(passed[1])
