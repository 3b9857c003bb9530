"""The command line as a whole: its options, its help, and what a mistake prints."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import foveal
from tests.server import ROOT
from tests.shell import Shell

# What is on the command line is a promise: a change here is a change that users see.
COMMANDS = {
    "init": "DIR --model --json",
    "serve": "--models --port --host --workers --device --max-image-pixels --dry-run --json",
    "predict": "IMAGE… --model --top --url --local --precision --models --json",
    "score": "SOURCE… --model --out --format --resume --overwrite --strict --glob --image-column "
    "--label-column --id-column --keep --top --probabilities --max-errors --max-image-pixels "
    "--precision --device --engine --ray-address --models --quiet --json",
    "check": "DATASET --data-dir --model --skip-labels --similarity --out --models --quiet --json",
    "train": "--dataset --network --run --data-dir --size --resize --grey --no-grey "
    "--skip-unreadable --no-skip-unreadable --image-column --label-column --positive --validation "
    "--split-seed --epochs --least-steps --batch-size --loss --class-weights --optimizer "
    "--momentum --nesterov --no-nesterov --lr --weight-decay --bias-lr --schedule --warmup "
    "--label-smoothing --first-lr --hidden --widths --depth --activation --dropout --weights "
    "--init --freeze --shift --border --flip --no-flip --cutout --mixup --ema --autocast --clip "
    "--patience --keep --devices --nodes --seed --resume --overwrite --logger --sweep --trials "
    "--export --models --json",
    "export": "RUN --name --precision --max-accuracy-drop --abstain-precision "
    "--max-drop-from-serving --force --embedding --models --json",
    "adopt": "MODEL --name --labels --toml --layout --scale --mean --std --channels --resize "
    "--crop-share --crop-rounding --filter --pad-colour --loader --scaled-decoding --size "
    "--output --gives --task --threshold --input-channels --images --expected --calibrate "
    "--abstain-precision --precision --max-accuracy-drop --max-drop-from-serving --force --python "
    "--weights --trust-pickle --accept-difference --memory-gib --models --json",
    "tune": "NAME[:V] --p99-ms --precision --device --cores --workers --budget-s --out "
    "--overwrite --reset --models --json",
    "loadtest": "URL --kind --rows --users --rate --shape --duration-s --p99-ms --find-max "
    "--budget-s --expect --from --speed --deadline-ms --timeout-s --engine --processes --grpc "
    "--out --model --start --models --json",
    "feedback": "FILE --model --url --json",
    "replay": "[RECORDING] --candidate --against --model --labels --url --speed --max-flips --out "
    "--precision --models --json",
    "doctor": "--models --port --host --json",
    "completion": "SHELL",
    "help": "COMMAND",
    "models list": "--models --json",
    "models show": "NAME[:V] --models --json",
    "models verify": "NAME[:V] --models --json",
    "models upgrade": "NAME[:V] --images --background --models --json",
    "models rollback": "NAME --models --json",
    "models default": "NAME V --models --json",
    "models unpin": "NAME --models --json",
    "models shadow": "NAME VERSION FRACTION --models --json",
    "models canary": "NAME VERSION FRACTION --models --json",
    "models promote": "NAME [V] --canary --max-flips --min-accuracy --max-drop --p99-ms --within "
    "--step --shadow --stop --resume --models --json",
    "models record": "NAME [SHARE] --models --json",
    "models prune": "NAME --keep --dry-run --models --json",
    "record list": "--recording --model --last --json",
    "record show": "ID --recording --out --json",
    "record export": "OUT --recording --model --labels --labelled --models --json",
    "record erase": "--id --all --recording --json",
    "keys add": "NAME --file --requests-per-s --burst --json",
    "bench peers": "--rounds --duration-s --cases --only --cpus --load-cpu --multipart "
    "--no-multipart --models --json",
    "bench v2": "--rounds --duration-s --case --beside --models --json",
    "bench session": "--model --threads --device --models --json",
    "bench stages": "--model --duration-s --models --json",
    "bench overload": "--model --deadline-ms --loads --rounds --duration-s --only --cpus "
    "--load-cpus --models --json",
    "bench endurance": "--duration-s --requests --models --json",
    "bench start": "--starts --models --json",
    "bench record": "--cases --rounds --duration-s --cpus --load-cpus --models --json",
}


def leaves() -> dict[str, Any]:
    root: Any = typer.main.get_command(foveal.app)
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {child}": leaf for child, leaf in command.commands.items()}
        else:
            found[name] = command
    return found


def test_the_command_line_is_stable() -> None:
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


def test_every_option_has_a_help_text() -> None:
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
    (("loadtest", "--grpc"), 2, "^foveal loadtest: Option '--grpc' requires an argument; see"),
    (("train", "--size"), 2, "^foveal train: Option '--size' requires an argument; see foveal tr"),
    (("feedback", "no.csv", "--model", "tiny"), 1, "^no.csv: expected a CSV of id and label, got"),
    (("predict", "x.png", "--top", "0"), 2, "--top"),
    (("predict", "x.png", "--url", "http://127.0.0.1:9", "--local"), 2, "expected one of them"),
    (("predict", "x.png", "--url", "localhost:3000"), 1, "^url: expected http://host:port, got"),
    (("predict", "x.png", "--model", "none"), 1, '^model "none": expected one of tiny$'),
    (("predict", "x.png", "--model", "tiny:7"), 1, "no version 7; available: 1, 2$"),
    (
        ("score", ".", "--model", "tiny", "--out", "scores.xlsx"),
        2,
        "scores.xlsx: expected a name that",
    ),
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
    (("models", "default", "tiny", "x"), 2, "'V'"),
    (
        ("models", "shadow", "tiny", "2", "7"),
        2,
        "'FRACTION': expected less than or equal to 1, got '7'; see",
    ),
    (("serve", "--port", "65536"), 2, "--port': expected less than .* to 65535, got '65536'; see"),
    (("serve", "--port", "abc"), 2, "--port': expected a valid integer, got 'abc'; see"),
    (
        ("serve", "--device", "abacus"),
        2,
        "'--device': expected one of auto, cpu, cuda, tensorrt, got 'abacus'; see",
    ),
    (("completion",), 2, "^foveal completion: Missing .* Choose from: bash, zsh, fish; see"),
    (("completion", "tcsh"), 2, "expected one of bash, zsh, fish, got 'tcsh'; see"),
    (("adopt", "no.onnx", "--name", "a"), 1, "^no.onnx: expected a file or folder that exists, g"),
    (("serve", "--max-image-pixels", "0"), 2, "--max-image-pixels"),
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
    (
        ("train", "--dataset", "digits", "--network", "cnn", "--size", "abc"),
        1,
        "^size: expected 224 or 224x160, height first, got 'abc'$",
    ),
    (("train", "--dataset", "digits"), 1, "^network: expected one with --network, or an earlier"),
    (
        ("train", "--dataset", "digits", "--network", "cnn", "--sweep", "colour=1"),
        1,
        "^sweep: expected one of .*, got 'colour'$",
    ),
    (
        ("train", "--dataset", "digits", "--network", "no.nets:make"),
        1,
        "^no.nets:make: expected a module no.nets, got ModuleNotFoundError",
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


def test_a_missing_repository_is_reported(shell: Shell, tmp_path: Path) -> None:
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
        ("onnxruntime", "cpu", ("predict", "x.png")),
        ("pyarrow", "score", ("score", ".", "--model", "tiny", "--out", "a.parquet")),
        ("fsspec", "remote", ("score", "s3://a/b", "--model", "tiny", "--out", "a.csv")),
        ("ray", "ray", ("score", ".", "--model", "tiny", "--out", "a.csv", "--engine", "ray")),
        ("locust", "loadtest", ("loadtest",)),
        ("matplotlib", "loadtest", ("tune", "tiny")),
        ("tritonclient", "grpc", ("bench", "v2")),
    ],
)
def test_a_missing_extra_is_named(
    package: str, extra: str, words: tuple[str, ...], tiny_repository: Path
) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    script = "import sys; sys.modules[sys.argv.pop(1)] = None; import foveal; foveal.main()"
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
    assert ended.stderr.rstrip().endswith(f" make install-{extra}")  # as in any checkout
