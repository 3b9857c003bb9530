"""From a user's PyTorch code in a user's environment to a version that answers as the code does."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.image import decode
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.guarded import until
from tests.shell import CommandResult, Shell

datasets = pytest.importorskip("sklearn.datasets")
USER = Path(__file__).with_name("user") / "eval.py"
LABELS = ("bunting", "crane", "dipper", "egret", "finch")
# More of torchvision, timm and transformers: tests/adoption.
PAIRS = (
    "torchvision_v2",
    "processor_in_a_function",
    "bytes_of_grey_pictures",
    "own_loader",
)
AdoptUser = Callable[..., CommandResult]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs: some transparent, some lying on their side, one of 16 bits."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(5)
    for name, photograph in zip(
        ("temple", "flower"), datasets.load_sample_images().images, strict=True
    ):
        for number in range(5):
            height, width = generator.integers(40, 400, 2)
            top = generator.integers(0, photograph.shape[0] - height)
            left = generator.integers(0, photograph.shape[1] - width)
            crop = Image.fromarray(photograph[top : top + height, left : left + width])
            if number == 3:
                crop.putalpha(77)
            exif = crop.getexif()
            exif[0x0112] = 6 if number == 4 else 1
            crop.save(folder / f"{name}-{number}.{'png' if number == 3 else 'jpg'}", exif=exif)
    grey = np.asarray(crop.convert("L")).astype(np.uint16)
    Image.fromarray(grey * 16).save(folder / "deep.png")
    return folder


@pytest.fixture(scope="session")
def made(forked_python: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the user's own run wrote: the answers of every pair, and files of every form."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([forked_python, USER, pictures, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    return Shell(capsys, tmp_path / "models")


@pytest.fixture
def adopt_user(
    shell: Shell,
    forked_python: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AdoptUser:
    """Adopt under the name ``birds``; logs of failed runs go to the test's folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(model: object, *options: object, images: bool = True) -> CommandResult:
        words = ("--images", pictures) if images else ()
        return shell("adopt", model, "--python", forked_python, "--name", "birds", *words, *options)

    return run


def answers(models: Path, files: list[Path]) -> NDArray[np.float32]:
    model = LocalModel.load(ModelRepository(models), "birds", 1)
    return model.run([decode(file.read_bytes(), model.artifact.image) for file in files])


@pytest.mark.parametrize(
    "pair", [PAIRS[0], *(pytest.param(pair, marks=pytest.mark.thorough) for pair in PAIRS[1:])]
)
def test_a_file_gets_the_answers_of_the_users_own_evaluation(
    adopt_user: AdoptUser,
    shell: Shell,
    made: Path,
    pictures: Path,
    caplog: pytest.LogCaptureFixture,
    pair: str,
) -> None:
    labels = shell.models.parent / "labels.txt"
    labels.write_text("\n".join(LABELS))
    options = ("--labels", labels) if pair == "bytes_of_grey_pictures" else ()
    done = adopt_user(f"{USER}:{pair}", *options)
    assert done.code == 0, done.error
    expected = np.load(made / "answers.npz")[pair]
    got = answers(shell.models, sorted(pictures.iterdir()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    assert np.ptp(expected, axis=0).max() > 0.005, "answers must tell images apart"
    artifact = ModelRepository(shell.models).load("birds", 1)
    assert artifact.labels == LABELS
    assert artifact.image.clip_16_bits == (pair != "own_loader")
    proof = artifact.proof
    assert proof is not None and proof.reference.startswith(f"{USER}:{pair} in ")
    assert (proof.images, proof.label_agreement) == (11, 1)
    # What is left is the float32 of the normalisation. Files that were made are compared, too:
    # these programs drop transparency.
    assert proof.max_pixel_difference == pytest.approx(0, abs=1e-3)
    image = artifact.image
    assert (image.exif, image.background) == (pair == "own_loader", None)
    assert ("palette's transparent colour" in caplog.text) == (pair == "processor_in_a_function")


@pytest.mark.thorough
def test_a_loader_as_viewers_have_is_read_off_files_that_are_made(
    adopt_user: AdoptUser, shell: Shell
) -> None:
    """Turned, over white, the high byte of 16 bits: no image of the user's shows it."""
    done = adopt_user(f"{USER}:opened_as_viewers_do")
    assert done.code == 0, done.error
    image = ModelRepository(shell.models).load("birds", 1).image
    assert (image.exif, image.background, image.clip_16_bits) == (True, (255, 255, 255), False)


@pytest.mark.thorough
def test_a_loader_that_opens_one_kind_of_file_otherwise_is_named(
    adopt_user: AdoptUser, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    done = adopt_user(f"{USER}:inverted_cmyk", "--accept-difference")
    assert done.code == 0, done.error
    assert "in 1 of 15 images (most in cmyk.jpg made of " in caplog.text, caplog.text
    proof = ModelRepository(shell.models).load("birds", 1).proof
    assert proof is not None and proof.label_agreement == 1
    assert proof.max_pixel_difference is not None and proof.max_pixel_difference > 1


@pytest.mark.thorough
def test_folders_named_as_labels_score_a_network(
    adopt_user: AdoptUser, made: Path, pictures: Path, tmp_path: Path
) -> None:
    expected = np.load(made / "answers.npz")["torchvision_v1"]
    for file, answer in zip(sorted(pictures.iterdir()), expected.argmax(axis=1), strict=True):
        folder = tmp_path / "val" / LABELS[answer]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    words = ("--images", tmp_path / "val")
    done = adopt_user(f"{USER}:torchvision_v1", *words, images=False)
    assert done.code == 0, done.error
    assert done.out.rstrip().endswith("accuracy 100.00% of 11 images")
    done = adopt_user(f"{USER}:torchvision_v1", "--expected", "answers.npy")
    assert "expected no --expected, as the network's own answers" in done.error


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("script.pt", ("--size", "32", "--scale", "1/255", "--labels", "labels.txt")),
        pytest.param(
            "free.pt2", ("--scale", "1/255", "--labels", "labels.txt"), marks=pytest.mark.thorough
        ),
    ],
)
def test_every_form_of_a_file_is_adopted(
    adopt_user: AdoptUser,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(made)
    Path("labels.txt").write_text("\n".join(LABELS))
    done = adopt_user(model, *options)
    assert done.code == 0, done.error


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(
            "resized_as_a_tensor",
            r"differ by up to [12](\.\d+)? of 255 .* nearest is shorter",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "with_a_lambda",
            r"not read: Lambda \(.*eval\.py:\d+\); without it pixels differ",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "for_training",
            r"not read: RandomResizedCrop, which is for training",
            marks=pytest.mark.thorough,
        ),
        ("of_many_sizes", r"expected one size for all images, got .* end it in a crop"),
        ("fails", r"eval\.py:\d+: ValueError: no weights here \(traceback: .*\.log\)"),
        ("no_transform", r"no_transform\(\): expected \(module, transform\), got no transform"),
        ("missing", r"expected a function missing, got none"),
    ],
)
def test_what_cannot_be_said_is_named(
    adopt_user: AdoptUser, shell: Shell, function: str, message: str
) -> None:
    done = adopt_user(f"{USER}:{function}")
    assert done.code == 1
    assert len(done.error.splitlines()) == 1, done.error
    assert done.error.startswith(f"{USER}:{function}: ")
    assert re.search(message, done.error), done.error
    assert not (shell.models / "birds").exists()


@pytest.mark.thorough
def test_a_difference_is_published_only_if_it_is_accepted(
    adopt_user: AdoptUser, shell: Shell
) -> None:
    done = adopt_user(f"{USER}:resized_as_a_tensor", "--accept-difference")
    assert done.code == 0, done.error
    proof = ModelRepository(shell.models).load("birds", 1).proof
    assert proof is not None and proof.max_pixel_difference is not None
    assert 0 < proof.max_pixel_difference <= 3


def test_forms_that_lack_something_say_what_to_paste(
    adopt_user: AdoptUser, made: Path, tmp_path: Path
) -> None:
    state = made / "state.pth"
    load = f"net.load_state_dict(torch.load({str(state)!r}))"
    for model, options, message in (
        (state, (), load),
        (state, ("--trust-pickle",), load),
        (made / "fixed.pt2", (), "dynamic_shapes=({0: torch.export.Dim('rows')},)"),
        ("timm:test_resnet", (), "expected --weights"),
        (USER, (), f"as in {USER}:make"),
        (f"{USER}:a-b", (), "expected FILE.py:FUNCTION"),
        (tmp_path, (), "network.save_pretrained(FOLDER)"),
        (f"{USER}:fails", ("--python", "no-such-python"), "--python: expected a Python"),
    ):
        done = adopt_user(model, *options)
        assert done.code == 1
        assert message in done.error and len(done.error.splitlines()) == 1, done.error
    done = adopt_user(f"{USER}:torchvision_v1", images=False)
    assert "expected --images" in done.error


def test_an_environment_without_torch_is_told_to_the_user(
    adopt_user: AdoptUser, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["python3", "-m", "venv", "--without-pip", bare], check=True)
    done = adopt_user(f"{USER}:torchvision_v1", "--python", bare / "bin" / "python")
    assert "expected the package numpy in" in done.error and "-m pip install" in done.error


@pytest.mark.thorough
def test_the_users_process_ends_with_the_command(
    user_python: Path, pictures: Path, tmp_path: Path
) -> None:
    noted, code = tmp_path / "process", tmp_path / "slow.py"
    code.write_text(
        "import os, pathlib, time\n\n\ndef make():\n"
        f"    pathlib.Path({str(noted)!r}).write_text(str(os.getpid()))\n    time.sleep(600)\n"
    )
    words = (f"{code}:make", "--python", user_python, "--name", "slow", "--images", pictures)
    command = subprocess.Popen(
        [sys.executable, "-m", "foveal", "adopt", *words, "--models", tmp_path / "models"]
    )
    until(lambda: noted.exists() and noted.read_text() != "", "the user's code to run", 120)
    theirs = psutil.Process(int(noted.read_text()))
    command.kill()
    command.wait()
    until(lambda: not theirs.is_running(), "the user's process to end", 10)
