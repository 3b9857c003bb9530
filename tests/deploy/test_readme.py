"""deploy/README.md: its links lead somewhere, its figures are the tables', its commands exist."""

import math
import re

import pytest

import foveal
from deploy.panels import PANELS
from service.inflight import Inflight
from service.metrics import families
from service.rollout import shadow
from service.settings import Settings
from tests.deploy.manifests import COMPONENTS, KUBERNETES, OVERLAYS
from tests.deploy.watched import RULES
from tests.server import ROOT

DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text()
RESULTS = ROOT / "loadtest" / "bench" / "results"
# What the section on sizing reckons with, and the words beside it in the results.
PEERS, BEFORE = "peers_2026-11-21_1516.md", "peers_2026-11-21_1356.md"
V2, SCORE = "v2_2026-11-21_1358.md", "score_2026-11-21_1359.md"
ENDURANCE = "endurance_2026-11-21_1519.md"
FIGURES = [
    ("31,203", PEERS, r"\| foveal \| [\d,]+ \| [\d,]+ \| 31,203 \|.* 1\.67 / 4\.43"),
    ("129,201", V2, r"V2 binary .*\| 129,201 \|"),
    ("77,770", V2, r"V2 grpc .*\| 77,770 \|"),
    ("841 images", PEERS, r"\| foveal \| 718 \| 817 \| 841 \|.* 75\.52 / 83\.29"),
    ("93 images", BEFORE, r"\| foveal \| 86 \| 102 \| 93 \|"),
    ("9,770", SCORE, r"\| table \| 9,770 \|"),
    ("1.56 times", ENDURANCE, r"two workers on two cores.* 1\.56 times"),
    ("2.15 times", "endurance_2026-11-21_1402.md", r"two workers on two cores.* 2\.15 times"),
    ("411 MiB", ENDURANCE, r"after 128,014 requests \| 410\.7 MiB"),
    ("414 MiB", ENDURANCE, r"413\.8 MiB"),
]


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    anchors = {heading.lower() for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    assert len(targets) > 10
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (DEPLOY / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize(("figure", "name", "pattern"), FIGURES)
def test_figures_are_the_tables(figure: str, name: str, pattern: str) -> None:
    assert figure in README
    assert re.search(pattern, (RESULTS / name).read_text()), (figure, name)


def test_the_example_follows_the_formula() -> None:
    per_core, cores, images, promise_s = 841, 2, 5000, 0.1
    most = promise_s * per_core * cores / 2
    assert f"{promise_s} x {per_core * cores:,} / 2 = {most:.0f}: the default, 64," in README
    assert most > 64 == Settings.model_fields["max_batch_size"].default
    assert f"2 x 64 / {per_core} = {2 * 64 / per_core * 1000:.0f} ms" in README
    pods = images / (0.6 * per_core * cores)
    whole = math.ceil(pods)
    assert f"= {pods:.1f}, so {whole} and 1 more: {whole + 1}" in README
    waiting = Inflight(192 << 20).queue_bytes
    assert f"{waiting >> 20} MiB are {waiting // (224 * 224 * 3)} rows of 224x224x3" in README
    assert f"or {waiting // (32 * 32 * 3):,} of 32x32x3" in README


def test_what_it_names_is_there() -> None:
    for kind, names in (("overlays", OVERLAYS), ("components", COMPONENTS)):
        for name in names:
            assert f"| `{name}` |" in README, (kind, name)
    known = {f"FOVEAL_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"FOVEAL_[A-Z0-9_]+[A-Z0-9]", README)) <= known
    commands = {command.name for command in foveal.models_app.registered_commands}
    assert set(re.findall(r"foveal models (\w+)", README)) <= commands


def test_every_metric_that_is_asked_for_is_one_of_the_service() -> None:
    """Of those that need a device that is not here, too, which no test can ask a Prometheus for."""
    ends = ("", "_total", "_sum", "_count", "_bucket")
    values = [*vars(families).values(), *vars(shadow).values()]
    names = [value._name for value in values if hasattr(value, "_name")]
    known = {name + end for name in names for end in ends}
    texts = [query.expression for panel in PANELS for query in panel.queries]
    texts += [rule["expr"] for rule in RULES]
    texts.append((KUBERNETES / "prometheus-adapter.yaml").read_text().partition("seriesQuery")[2])
    asked = {name for text in texts for name in re.findall(r"\bfoveal_\w+", text)}
    asked -= {"foveal_requests_waiting"}  # the adapter's name of what it makes
    assert len(asked) > 10
    assert asked <= known, asked - known
