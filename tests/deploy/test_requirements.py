"""deploy/requirements.txt: the one list that the Bento and the image install."""

from pathlib import Path

import yaml

from deploy.requirements import write

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (ROOT / "deploy/requirements.txt").read_text()


def test_it_is_the_closure_of_what_serving_needs() -> None:
    expected = write()
    assert expected == REQUIREMENTS, "python deploy/requirements.py > deploy/requirements.txt"


def test_it_brings_no_training() -> None:
    names = {line.partition("==")[0].lower() for line in REQUIREMENTS.splitlines()[1:]}
    assert {"bentoml", "onnxruntime", "grpcio", "pillow", "simplejpeg"} <= names
    assert (
        not {
            "opencv-python-headless",
            "torch",
            "onnx",
            "pyarrow",
            "scikit-learn",
            "matplotlib",
            "ray",
            "pip",
        }
        & names
    )


def test_the_bento_installs_it_as_it_stands() -> None:
    python = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]
    assert python == {"requirements_txt": "./deploy/requirements.txt", "lock_packages": False}
