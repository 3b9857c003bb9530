"""What the image is made of, read from the files that say so: no engine is needed."""

import fnmatch
import shlex

import yaml

from tests.places import ROOT

COPIED = [
    source
    for line in (ROOT / "deploy/container/Containerfile").read_text().splitlines()
    if line.startswith("COPY ") and "--from=" not in line
    for source in shlex.split(line)[1:-1]
]
SENT = [
    line.removeprefix("!")
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line.startswith("!")
]


def test_everything_that_is_copied_is_there_and_sent_to_the_engine() -> None:
    assert COPIED
    assert [path for path in COPIED if not (ROOT / path).exists()] == []
    folders = tuple(f"{path}/" for path in SENT)
    assert [path for path in COPIED if path not in SENT and not path.startswith(folders)] == []
    assert [path for path in SENT if path not in COPIED] == []


def test_it_holds_the_code_of_the_bento() -> None:
    included = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    wanted = {pattern.strip("/").removesuffix("/**") for pattern in included}
    missing = [path for path in wanted if not any(fnmatch.fnmatch(path, c) for c in COPIED)]
    assert missing == ["README.md"]
