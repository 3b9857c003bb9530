import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import foveal
from models.image import encode_png
from models.repository import ModelRepository
from models.traffic import Share, Traffic
from tests.server import ROOT, free_port
from tests.shell import Shell
from tests.tiny import LABELS, publish_tiny, random_images, tiny_probabilities

# What is on the command line is a promise: a change here is a change that users see.
COMMANDS = {
    "serve": "--models --port --host --workers --device",
    "predict": "IMAGE… --model --top --url --local --precision --models --json",
    "score": "SOURCE… --model --out --resume --glob --image-column --label-column --id-column "
    "--keep --top --probabilities --max-errors --precision --engine --ray-address --models "
    "--quiet --json",
    "train": "--dataset --network --run --data-dir --image-size --grey --no-grey --positive "
    "--epochs --batch-size --loss --optimizer --momentum --nesterov --no-nesterov --lr "
    "--weight-decay --bias-lr --schedule --warmup --label-smoothing --hidden --widths --depth "
    "--activation --dropout --shift --border --flip --no-flip --cutout --ema --autocast --clip "
    "--patience --keep --devices --nodes --validation --split-seed --seed --resume --json",
    "export": "RUN --name --precision --max-accuracy-drop --abstain-precision --models --json",
    "adopt": "FILE.onnx --name --labels --toml --layout --scale --mean --std --channels --resize "
    "--interpolation --size --output --gives --images --memory-gib --models --json",
    "tune": "[NAME[:V]] --p99-ms --precision --device --cores --workers --budget-s --out --fresh "
    "--reset --models --json",
    "loadtest": "[URL] --kind --rows --users --rate --shape --duration-s --p99-ms --find-max "
    "--budget-s --expect --deadline-ms --timeout-s --engine --processes --grpc --out --model "
    "--start --models --json",
    "bench peers": "--rounds --seconds --cases --only --cpus --load-cpu --multipart "
    "--no-multipart --models --json",
    "bench v2": "--rounds --seconds --case --beside --models --json",
    "bench session": "--model --threads --device --models --json",
    "bench stages": "--model --seconds --models --json",
    "bench overload": "--model --deadline-ms --loads --rounds --seconds --only --cpus --load-cpus "
    "--models --json",
    "bench endurance": "--seconds --requests --models --json",
    "models list": "--models --json",
    "models show": "NAME[:V] --models --json",
    "models verify": "[NAME[:V]] --models --json",
    "models rollback": "NAME --models",
    "models default": "NAME [V] --models",
    "models shadow": "NAME VERSION FRACTION --models",
    "models canary": "NAME VERSION FRACTION --models",
}


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tiny_repository: Path) -> Shell:
    return Shell(capsys, tiny_repository)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(random_images(1)[0]))
    return path


def leaves() -> dict[str, Any]:
    root: Any = typer.main.get_command(foveal.app)
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {child}": leaf for child, leaf in command.commands.items()}
        else:
            found[name] = command
    return found


def test_the_command_line_is_what_was_promised() -> None:
    got = {}
    for name, command in leaves().items():
        words = [
            word
            for parameter in command.params
            for word in (
                [*parameter.opts, *parameter.secondary_opts]
                if parameter.param_type_name == "option"
                else [parameter.metavar or parameter.name.upper()]
            )
        ]
        got[name] = " ".join(words)
    assert got == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Shell(capsys, Path()).plain(*name.split(), "--help")
    assert said.code == 0
    assert f"Example: foveal {name}" in said.out


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{name} {parameter.opts[0]}"
        for name, command in leaves().items()
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert silent == []


def test_a_command_without_torch_never_imports_it(tiny_repository: Path, image: Path) -> None:
    script = (
        "import sys, foveal\n"
        "try: foveal.main(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'training', 'bentoml', 'locust', 'pytorch_lightning'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "predict", image, "--models", tiny_repository],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended


# What a user gets wrong: words, exit code, what is said.
WRONG = [
    ((), 2, "Usage: foveal"),
    (("frobnicate",), 2, "^foveal: No such command 'frobnicate'; see foveal --help$"),
    (("score", "--bogus"), 2, "^foveal score: No such option: --bogus.*; see foveal score --help$"),
    (("predict",), 2, "^foveal predict: Missing argument"),
    (("predict", "x.png", "--top", "0"), 2, "--top"),
    (("predict", "x.png", "--url", "http://127.0.0.1:9", "--local"), 2, "expected one of them"),
    (("predict", "x.png", "--url", "localhost:3000"), 1, "^url: expected http://host:port, got"),
    (("predict", "x.png", "--model", "none"), 1, '^model "none": expected one of tiny$'),
    (("predict", "x.png", "--model", "tiny:7"), 1, "no version 7; available: 1, 2$"),
    (("score", ".", "--model", "tiny", "--out", "scores.xlsx"), 2, "got 'scores.xlsx'"),
    (("score", "nowhere", "--model", "tiny", "--out", "a.csv"), 1, '^source "nowhere": expected a'),
    (("score", ".", "--model", "tiny", "--out", "nowhere/a.csv"), 1, "got no folder nowhere$"),
    (
        ("score", ".", "--model", "tiny", "--out", "a.csv", "--ray-address", "auto"),
        2,
        "--ray-address: expected --engine ray with it",
    ),
    (("models", "show", "none"), 1, '^model "none": expected one of tiny$'),
    (("models", "verify", "none"), 1, '^model "none": expected one of tiny$'),
    (("models", "rollback", "tiny"), 1, "expected a version before 1, got none$"),
    (("models", "default", "none"), 1, '^model "none"'),
    (("models", "default", "tiny", "x"), 2, r"\[V\]"),
    (("serve", "--port", "0"), 2, "--port"),
    (("serve", "--device", "abacus"), 2, "--device"),
    (("serve", "--host", "203.0.113.1"), 1, "^203.0.113.1:3000: expected a free port of this mach"),
    (("loadtest", "http://127.0.0.1:9"), 1, "^http://127.0.0.1:9: expected a running service, got"),
    (("export", "nowhere", "--name", "a"), 1, "^nowhere/run.json: expected a finished run"),
    (
        ("train", "--dataset", "x", "--network", "cnn"),
        1,
        "^dataset: expected one of cifar10, digits",
    ),
    (
        ("train", "--dataset", "digits", "--network", "cnn", "--widths", "a"),
        2,
        "--widths: expected widths as 512,512, got 'a'",
    ),
]


@pytest.mark.parametrize(
    ("words", "code", "match"), WRONG, ids=[" ".join(words) or "nothing" for words, _, _ in WRONG]
)
def test_a_mistake_is_one_line_and_a_code(
    words: tuple[str, ...],
    code: int,
    match: str,
    tmp_path: Path,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words and words[0] in ("train", "export"):
        pytest.importorskip("torch", reason="the train extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOVEAL_MODELS", str(shell.models))
    said = shell.plain(*words)
    assert said.code == code, said
    assert said.out == ""
    if words:
        assert len(said.error.splitlines()) == 1, said.error
    assert re.search(match, said.error.rstrip("\n")), said.error


def test_a_missing_repository_is_said(shell: Shell, tmp_path: Path) -> None:
    for words in (("models", "list"), ("serve",), ("models", "verify")):
        said = shell(*words, models=tmp_path / "none")
        assert (said.code, said.out) == (1, "")
        assert said.error.endswith("expected a folder of <name>/<version>/, got none\n")
    said = shell("serve", models=tmp_path)
    assert said.error == (
        f"{tmp_path}: expected a folder of <name>/<version>/, got no model in it\n"
    )


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("torch", "train", ("train", "--dataset", "digits", "--network", "cnn")),
        ("torch", "train", ("export", "runs/x", "--name", "x")),
        ("onnxruntime", "cpu", ("predict", "x.png")),
        ("pyarrow", "score", ("score", ".", "--model", "tiny", "--out", "a.parquet")),
        ("fsspec", "remote", ("score", "s3://a/b", "--model", "tiny", "--out", "a.csv")),
        ("ray", "ray", ("score", ".", "--model", "tiny", "--out", "a.csv", "--engine", "ray")),
        ("locust", "loadtest", ("loadtest",)),
    ],
)
def test_a_missing_extra_is_named(
    package: str, extra: str, words: tuple[str, ...], tiny_repository: Path
) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    script = "import sys; sys.modules[sys.argv[1]] = None; import foveal; foveal.main(sys.argv[2:])"
    ended = subprocess.run(
        [sys.executable, "-c", script, package, *words],
        cwd=ROOT,
        env={"FOVEAL_MODELS": str(tiny_repository), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f"expected {package}" in ended.stderr.replace("the package ", "")
    assert f"pip install 'foveal[{extra}]'" in ended.stderr


def test_a_setting_that_is_wrong_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_THREADS", "many")
    said = shell("serve", "--port", free_port())
    assert said.code == 1
    assert said.error.startswith("settings: FOVEAL_THREADS: ")


def test_a_port_in_use_is_said(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = shell("serve", "--host", "127.0.0.1", "--port", port)
    assert said.code == 1
    assert said.error == (
        f"127.0.0.1:{port}: expected a free port of this machine, got: Address already in use; "
        "choose others with --host and --port\n"
    )


def test_predict_prints_a_table(shell: Shell, image: Path) -> None:
    said = shell("predict", image, "--top", 2)
    assert (said.code, said.error) == (0, "")
    probabilities = tiny_probabilities(random_images(1))[0]
    first, second = (-probabilities).argsort()[:2]
    lines = [line.split() for line in said.out.splitlines()]
    assert lines == [
        ["image", "label", "probability"],
        [str(image), LABELS[first], f"{probabilities[first]:.4f}"],
        [LABELS[second], f"{probabilities[second]:.4f}"],
    ]


def test_predict_answers_good_images_beside_bad_ones(shell: Shell, tmp_path: Path) -> None:
    images = random_images(100)
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(encode_png(image))
    (tmp_path / "text.png").write_text("no image")
    paths[1:1] = [tmp_path / "missing.png", tmp_path / "text.png"]
    said = shell("predict", *paths, "--json")
    assert said.code == 3
    assert [line.split(": ")[0] for line in said.error.splitlines()] == list(map(str, paths[1:3]))
    document = said.document
    assert (document["model"], document["version"]) == ("tiny", 1)
    assert [result["image"] for result in document["results"]] == list(map(str, paths))
    assert [i for i, result in enumerate(document["results"]) if "error" in result] == [1, 2]
    good = [result["predictions"] for result in document["results"] if "error" not in result]
    expected_N = tiny_probabilities(images).argmax(axis=1).tolist()
    assert [predictions[0]["index"] for predictions in good] == expected_N


def test_predict_says_when_the_url_is_no_service(shell: Shell, image: Path) -> None:
    said = shell("predict", image, "--url", f"http://127.0.0.1:{free_port()}")
    assert said.code == 1
    assert "expected a running service, got: Connection refused" in said.error


def test_score_writes_a_table_and_counts_what_it_rejected(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    encoded = [encode_png(image) for image in random_images(3)]
    for i, content in enumerate([*encoded, encoded[0][:50], b"", b"text"]):
        (folder / f"{i}.png").write_bytes(content)
    out = tmp_path / "scores.csv"
    said = shell("score", folder, "--model", "tiny", "--out", out, "--json")
    assert said.code == 3
    assert said.error == ""
    document = said.document
    assert document.pop("seconds") > 0
    assert document.pop("rows_per_s") > 0
    assert document == {
        "out": str(out),
        "model": "tiny",
        "version": 1,
        "rows": 6,
        "errors": 3,
        "resumed_rows": 0,
        "accuracy": None,
    }
    assert len(out.read_text().splitlines()) == 7
    said = shell("score", folder / "[0-2].png", "--model", "tiny:2", "--out", out)
    assert said.code == 0
    assert said.out.startswith(f"{out}: 3 rows by tiny:2, 0 with an error, ")


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """One of the test's own, to change."""
    root = tmp_path / "models"
    publish_tiny(root)
    publish_tiny(root, gain=2.0)
    publish_tiny(root, "other")
    return ModelRepository(root)


def test_models_list_says_what_answers(shell: Shell, repository: ModelRepository) -> None:
    repository.set_default("tiny")
    said = shell("models", "list", models=repository.root)
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert lines == [
        ["name", "version", "accuracy", "size", "answers"],
        ["other", "1", "-", "1", "KiB", "/models/other/predict"],
        ["tiny", "1", "-", "1", "KiB"],
        ["tiny", "2", "-", "1", "KiB", "/models/tiny/predict", "and", "/predict"],
    ]
    document = shell("models", "list", "--json", models=repository.root).document
    assert [(e["name"], e["version"], len(e["routes"])) for e in document] == [
        ("other", 1, 1),
        ("tiny", 1, 0),
        ("tiny", 2, 2),
    ]


def test_models_default_and_rollback(shell: Shell, repository: ModelRepository) -> None:
    assert shell("models", "default", "other", models=repository.root).code == 0
    assert repository.default_model() == "other"
    said = shell("models", "rollback", "tiny", models=repository.root)
    when = "a running service reloads it within FOVEAL_RELOAD_S seconds"
    assert said == (0, f"tiny:1 is served; {when}\n", "")
    assert repository.resolve("tiny") == ("tiny", 1)
    assert shell("models", "default", "tiny", 2, models=repository.root).code == 0
    assert repository.resolve("tiny") == ("tiny", 2)


def test_models_shadow_and_canary(shell: Shell, repository: ModelRepository) -> None:
    said = shell("models", "canary", "tiny", 2, 0.1, models=repository.root)
    when = "a running service reloads it within FOVEAL_RELOAD_S seconds"
    assert said == (0, f"tiny:2 is canary of 0.1 of the requests; {when}\n", "")
    assert shell("models", "shadow", "tiny", 1, 1, models=repository.root).code == 0
    traffic = Traffic(shadow=Share(1, 1.0), canary=Share(2, 0.1))
    assert repository.settings().traffic == {"tiny": traffic}
    said = shell("models", "list", models=repository.root)
    assert "1 as shadow" in said.out and "0.1 as canary" in said.out
    assert shell("models", "canary", "tiny", 2, 0, models=repository.root).code == 0
    assert repository.settings().traffic == {"tiny": Traffic(shadow=Share(1, 1.0))}
    said = shell("models", "canary", "tiny", 9, 0.1, models=repository.root)
    assert said.code == 1 and "no version 9; available: 1, 2" in said.error
    assert shell("models", "canary", "tiny", 2, 1.5, models=repository.root).code == 2


def test_models_show_is_the_whole_story(shell: Shell) -> None:
    said = shell("models", "show", "tiny:2")
    assert said.code == 0
    for text in ("tiny:2", "top, upper, lower, bottom", "UINT8 [-1, 8, 8, 1]", "model.onnx: fp32"):
        assert text in said.out
    document = shell("models", "show", "tiny:2", "--json").document
    assert (document["version"], document["plan"]) == (2, None)


def test_models_verify_finds_what_is_wrong(shell: Shell, repository: ModelRepository) -> None:
    assert shell("models", "verify", models=repository.root) == (
        0,
        "other:1  ok\ntiny:1   ok\ntiny:2   ok\n",
        "",
    )
    golden = repository.path("tiny", 2) / "golden/3.png"
    golden.write_bytes(encode_png(random_images(1)[0]))
    said = shell("models", "verify", "--json", models=repository.root)
    assert said.code == 1
    assert said.document["tiny:1"] == said.document["other:1"] == "ok"
    assert said.document["tiny:2"].startswith(f"{golden}: sha256 is ")
    assert shell("models", "verify", "tiny:1", models=repository.root).code == 0
    assert shell("models", "verify", "tiny", models=repository.root).code == 1


def test_models_verify_replays_the_golden_images(shell: Shell, repository: ModelRepository) -> None:
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    document["golden"][0]["probabilities"] = [0.25, 0.25, 0.25, 0.25]
    path.write_text(json.dumps(document))
    said = shell("models", "verify", "tiny:1", models=repository.root)
    assert said.code == 1
    assert "golden image golden/0.png: expected the recorded probabilities" in said.out
