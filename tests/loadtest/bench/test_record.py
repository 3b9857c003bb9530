"""What recording costs is told with what the method is worth."""

import subprocess
import sys
import time

import pytest

from loadtest.bench.record import Service, of_none, table


def test_the_interval_is_that_of_the_medians_rank() -> None:
    """Of 9 rounds: ranks 2 and 8 hold the median with 96 %, by the binomial distribution."""
    ratios = [0.99, 1.01, 0.90, 1.00, 0.98, 1.10, 1.02, 0.97, 1.03]
    assert of_none(ratios) == {"of_none": 1.00, "low": 0.97, "high": 1.03}
    assert of_none([0.9]) == {"of_none": 0.9, "low": 0.9, "high": 0.9}


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's clock")
def test_a_services_processor_time_counts_its_children() -> None:
    busy = "import subprocess, sys; print(1, flush=True); " + "sum(range(10**8)); " * 1000
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"1\n"
        service = Service(0, parent.pid)
        try:
            before = service.processor_s()
            deadline = time.monotonic() + 60
            while service.processor_s() - before < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(parent.pid)], check=False)


def test_a_row_says_what_both_took() -> None:
    share = {"share": 0.01, "request_us": 139.04, "none_us": 138.0, "rows": {"written": 1200}}
    share |= {"of_none": 0.9925, "low": 0.985, "high": 1.0}
    case = {"name": "fcnn", "connections": 64, "shares": [share]}
    *_, row = table({"cases": [case]}).splitlines()
    assert (
        row
        == "| fcnn, 64 connections | 1% | 139.0 | 138.0 | 0.9925 | 0.9850 to 1.0000 | 1,200 | 0 |"
    )
