import numpy as np

from export.golden import choose_golden, draft_golden, encode_golden
from models.artifact import ImageSpec, Resize
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
    files, decoded = encode_golden(images, spec)
    assert (decoded == images).all()
    assert all(
        (decode(file, spec) == image).all() for file, image in zip(files, images, strict=True)
    )


def test_a_golden_file_may_pass_through_a_resize() -> None:
    """A model made for "resize 8, crop 6" answers what is left of a picture of its own size."""
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    spec = ImageSpec("RGB", 6, 6, Resize("shorter", "bilinear", 8, 8))
    files, decoded = encode_golden(images, spec)
    assert (decoded != images).any()
    assert all((decode(file, spec) == row).all() for file, row in zip(files, decoded, strict=True))


def test_a_golden_image_has_the_label_that_it_was_answered() -> None:
    golden = draft_golden([b"a", b"b"], "abcd", PROBABILITIES[:2])
    for draft, file, probabilities in zip(golden, (b"a", b"b"), PROBABILITIES, strict=False):
        assert draft.encoded == file
        assert draft.label == "abcd"[int(probabilities.argmax())]
        assert draft.probabilities == tuple(probabilities.tolist())
