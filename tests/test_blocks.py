"""Every block of README.md and docs/ is run by a test, or stands here with the reason why not."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = {"sh", "bash", "python", "js"}

# How a block begins, and the test that runs it as it stands.
RUN = {
    "README.md": {
        "curl --data-binary": "tests/e2e/test_readme_v2.py",
        "# my PyTorch model": "its commands are those of the guides, see below",
    },
    "docs/clients.md": {
        "from pathlib import Path": "tests/e2e/test_readme_v2.py",
        "import { readFile }": "tests/e2e/test_readme_v2.py",
        "curl -sS --fail-with-body": "tests/e2e/test_readme_v2.py",
    },
    "docs/own-model.md": {
        ".venv/bin/foveal adopt my_project/eval.py:make": "tests/export/test_own_model_page.py",
        ".venv/bin/foveal adopt resnet50.onnx": "tests/export/test_own_model_page.py",
    },
    "docs/protocols.md": {
        "curl localhost:3000/v2/models/fashion-cnn": "tests/e2e/test_readme_v2.py",
        "from pathlib import Path": "tests/e2e/test_readme_v2.py",
        "import numpy as np\nimport tritonclient.grpc": "tests/e2e/test_readme_v2.py",
        "import json": "tests/e2e/test_readme_v2.py",
    },
    "docs/score.md": {".venv/bin/foveal score photos": "tests/scoring/test_readme.py"},
    "docs/serve.md": {
        "# one image, several": "tests/e2e/test_readme_v2.py",
        "import bentoml": "tests/e2e/test_readme_v2.py",
        ".venv/bin/foveal models default digits-cnn 2": "tests/e2e/test_readme_v2.py",
    },
}

# How a block begins, and why no test runs it; what covers its parts.
NOT_RUN = {
    "docs/feedback.md": {
        "FOVEAL_FEEDBACK_ROWS": "serves until it is stopped: "
        "tests/e2e/test_feedback.py sends the same",
        "foveal feedback truths.csv": "wants a file of ids that were just answered: "
        "tests/e2e/test_feedback.py",
    },
    "docs/gpu.md": {
        "pip install 'foveal[gpu,nvimgcodec]'": "gigabytes, for a GPU",
        "make gpu-check": "wants a GPU: make gpu-rehearsal runs its steps",
        "loadtest/bench/gpu_check.sh prepare": "downloads wheels for another machine",
    },
    "docs/install.md": {
        "make install-train": "installs from a package index; .ci/run installs by the same rules",
        "pipx install": "installs from a package index: tests/commands/test_installed.py",
        'eval "$(foveal completion bash)"': "for a shell's settings: tests/commands/test_help.py",
    },
    "docs/promote.md": {
        ".venv/bin/foveal models default digits-cnn 1": "wants a service and hours: "
        "tests/e2e/test_promotion.py runs each",
    },
    "docs/record.md": {
        "FOVEAL_RECORD=0.01": "serves until it is stopped: tests/e2e/test_recording.py",
        ".venv/bin/foveal record list": "wants a recording: tests/e2e/test_recording.py",
        ".venv/bin/foveal record export": "wants a recording with truths: "
        "tests/e2e/test_learning.py",
        ".venv/bin/foveal replay": "wants a recording: tests/e2e/test_recording.py, "
        "tests/scoring/test_replay.py",
    },
    "README.md": {
        "make serve": "installs from a package index; .ci/run installs by the same rules",
    },
    "docs/check.md": {
        ".venv/bin/foveal check folder:photos": "wants a model named birds: "
        "tests/training/quality/test_check.py runs the command, with --model, too",
    },
    "docs/deploy.md": {
        "make image": "minutes, and a container engine: tests/deploy/test_container.py",
        "foveal keys add mobile-app": "serves until it is stopped, with a key made each time: "
        "tests/commands/test_keys.py, tests/e2e/test_access.py",
    },
    "docs/fine-tune.md": {
        "pip install 'foveal[cpu,train,timm]'": "minutes, and weights to download: "
        "tests/training/test_fine_tuning.py",
        "pip install 'foveal[cpu,train,sweep]'": "20 trainings: tests/training/test_sweep.py",
    },
    "docs/own-model.md": {
        "def make():": "an excerpt, which needs weights of yours; a whole one is run by "
        "tests/export/test_own_model_page.py",
        ".venv/bin/foveal adopt birds.onnx": "60 answers of yours: tests/export/test_proof.py",
    },
    "docs/train.md": {
        ".venv/bin/foveal check folder:photos": "minutes of two cores: "
        "tests/training/quality/test_check.py, tests/training/datasets/test_encoded.py",
        ".venv/bin/foveal train --dataset digits": "20 s of two cores that nothing else uses: "
        "tests/training/test_pipeline.py trains and exports a small part",
    },
    "docs/tune.md": {
        "foveal tune fashion-cnn": "5 minutes of a quiet machine: tests/loadtest/tune",
    },
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block."""
    text = page.read_text()
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_excused(page: Path) -> None:
    name = str(page.relative_to(ROOT))
    begins = [*RUN.get(name, {}), *NOT_RUN.get(name, {})]
    codes = [code for language, code in blocks(page) if language in CODE]
    for code in codes:
        found = [begin for begin in begins if code.startswith(begin)]
        assert len(found) == 1, f"{name}: no test runs this, and no reason is given: {code}"
        begins.remove(found[0])
    assert not begins, f"{name} has no such block"


def test_the_tests_that_run_them_read_the_pages() -> None:
    """A page's name stands in the test that is said to run its blocks."""
    for page, begins in RUN.items():
        for test in begins.values():
            if test.startswith("tests/"):
                assert Path(page).name in (ROOT / test).read_text(), (page, test)


def test_the_tests_that_cover_parts_exist() -> None:
    reasons = [reason for begins in NOT_RUN.values() for reason in begins.values()]
    for path in re.findall(r"tests/[\w/.]*\w", " ".join(reasons)):
        assert (ROOT / path).exists(), path


def test_the_recipes_are_the_commands_of_the_guides() -> None:
    """README.md's ways on stand in the guides word for word."""
    recipes = next(code for _, code in blocks(ROOT / "README.md") if "foveal adopt" in code)
    guides = "\n".join(page.read_text() for page in PAGES if page.parent.name == "docs")
    lines = [line for line in recipes.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 6
    for line in lines:
        assert line in guides, line


def test_what_is_no_code_is_marked_so() -> None:
    """A block without a language shows output or a picture, no command."""
    for page in PAGES:
        for language, code in blocks(page):
            if language not in CODE:
                assert language in ("", "json", "yaml"), (page.name, language)
                assert not re.search(r"^(\$ |\.venv/|foveal |curl |pip )", code, re.MULTILINE), code
