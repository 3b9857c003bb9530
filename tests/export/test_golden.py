import numpy as np

from export.golden import choose_golden, draft_golden
from models.artifact import ImageSpec
from models.image import decode

PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(4), 16).astype(np.float32)


def test_golden_images_survive_a_hopeless_model() -> None:
    wrong = (PROBABILITIES.argmax(axis=1) + 1) % 4
    rows = choose_golden(PROBABILITIES, wrong)
    assert len(rows) == len(set(rows.tolist())) == 8
    rows = choose_golden(PROBABILITIES, PROBABILITIES.argmax(axis=1))
    assert len(rows) == 8
    assert np.isin(rows, np.arange(16)).all()


def test_each_class_comes_first_and_only_right_answers_while_there_are_any() -> None:
    targets_N = PROBABILITIES.argmax(axis=1)
    targets_N[::5] = (targets_N[::5] + 1) % 4
    is_right_N = PROBABILITIES.argmax(axis=1) == targets_N
    rows = choose_golden(PROBABILITIES, targets_N)
    right = np.unique(targets_N[is_right_N])
    assert set(targets_N[rows[: len(right)]]) == set(right)
    assert is_right_N[rows].all()


def test_a_golden_file_decodes_to_its_pixels() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 9, 3), dtype=np.uint8)
    spec = ImageSpec("RGB", 6, 9)
    golden = draft_golden(images, spec, ["a", "b"], PROBABILITIES[:2])
    for draft, image, label, probabilities in zip(
        golden, images, "ab", PROBABILITIES, strict=False
    ):
        assert (decode(draft.encoded, spec) == image).all()
        assert draft.label == label
        assert draft.probabilities == tuple(probabilities.tolist())
