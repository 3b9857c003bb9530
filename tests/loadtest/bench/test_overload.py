import os
from pathlib import Path

import pytest

from loadtest.bench.overload import OverloadSetup, run, table, verdict
from loadtest.bench.overload_plot import plot_overload
from tests.tiny import publish_tiny, tiny_model


def figure(load: float, goodput: float, p99_ms: float) -> dict[str, object]:
    return {
        "server": "a",
        "load": load,
        "goodput_per_s": goodput,
        "p99_ms": p99_ms,
        "brownout_share": load / 10,
        "refused_p99_ms": 3.0,
        "retry_after_s": "1 s",
    }


def test_the_verdict_holds_the_highest_load_against_the_best() -> None:
    figures = [figure(4, 90, 250), figure(1, 100, 100), figure(0.5, 50, 20)]
    assert verdict(figures, 500, 50, 0.01)["a"] == {
        "goodput_kept": 0.9,
        "p99_of_deadline": 0.5,
        "refused_p99_ms": 3.0,
        "retry_after_s": "1 s",
        "goodput_of_capacity": 1.8,
        "accuracy_lost": 0.004,
    }
    assert verdict([figure(4, 0, 0)], 500)["a"]["goodput_kept"] == 0.0


@pytest.mark.thorough
@pytest.mark.e2e
def test_overload_is_offered_and_told(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "models", model=tiny_model(is_slow=True), lower={"int8": 1.0})
    cpus = sorted(os.sched_getaffinity(0))
    said: list[str] = []
    setup = OverloadSetup(
        model="tiny",
        deadline_ms=400,
        loads=(0.05, 0.1),
        rounds=1,
        seconds=1,
        server_cpus=str(cpus[0]),
        load_cpus=str(cpus[-1]),
        only=("foveal-brownout",),
    )
    results = run(tmp_path / "models", setup, said.append)
    assert len(said) == 3 and results["capacity_per_s"] > 0
    assert [f["load"] for f in results["figures"]] == [0.05, 0.1]
    assert all(0 <= f["brownout_share"] <= 1 for f in results["figures"])
    assert all(f["wrong"] == 0 and f["goodput_per_s"] > 0 for f in results["figures"])
    text = table(results)
    assert "| 0.1 x |" in text and "Wrong labels, of all answers of all servers: 0." in text
    assert "started anew" not in text
    results["figures"][0]["stuck"] = 1
    assert "After 0.05 x it was started anew in 1 of 1 rounds" in table(results)
    assert plot_overload(results).startswith(b"\x89PNG")
