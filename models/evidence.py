"""The evidence in ``model.json``: what was measured about a version, and where it came from.

Plain dataclasses; ``artifact`` reads, writes and checks them as parts of a version.
"""

from dataclasses import dataclass

# Of a network that amplifies rounding: this many times what rounding moves, and no more than two
# pipelines may differ end to end.
_ROUNDINGS, _MOST_MOVED = 4, 1e-3


@dataclass(frozen=True, slots=True)
class Gate:
    """Measurements of a file of lower precision against the fp32 file, when it passed its gate.

    Attributes:
        split: Name of the split, normally ``test``.
        images: How many images.
        accuracy: Share of right labels, 0-1; None: the labels are unknown.
        accuracy_drop: Accuracy of the fp32 file minus this one's; negative if it gained; None as
            above.
        max_accuracy_drop: The limit for it.
        label_agreement: Share of images with the fp32 file's label, 0-1.
        min_label_agreement: The limit for it.
        max_probability_difference: Largest absolute difference over all probabilities.
        golden: Expected probabilities of each golden image in this precision, [golden][K].
    """

    split: str
    images: int
    accuracy: float | None
    accuracy_drop: float | None
    max_accuracy_drop: float
    label_agreement: float
    min_label_agreement: float
    max_probability_difference: float
    golden: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores of the model on images that training never saw.

    Attributes:
        split: Name of the split, normally ``test``.
        images: How many images.
        accuracy: Share of right labels, 0-1; of ``multi-label``: images whose labels are all right.
        per_class: For each label, the share of its own images that got it, 0-1; None: it has none.
        calibration_error: Expected calibration error, 15 equal bins (Guo et al. 2017), 0-1.
        calibration_error_before: The same without the temperature.
        confusion: Images of the label of the first index that got the label of the second, [K][K];
            None: not recorded, as of many labels and of ``multi-label``.
    """

    split: str
    images: int
    accuracy: float
    per_class: tuple[float | None, ...]
    calibration_error: float
    calibration_error_before: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None

    def why_wrong(self, classes: int) -> str:
        """Return which field is not of so many labels, in words of an error; empty if none."""
        if len(self.per_class) != classes:
            return f"$.metrics.per_class: expected {classes} values, got {len(self.per_class)}"
        if self.confusion is None or list(map(len, self.confusion)) == [classes] * classes:
            return ""
        return (
            f"$.metrics.confusion: expected {classes} lists of {classes} values, "
            f"got lists of {list(map(len, self.confusion))}"
        )


@dataclass(frozen=True, slots=True)
class Selective:
    """Effect of an abstain threshold on one split.

    Attributes:
        split: Name of the split.
        images: How many images.
        answered: Share of images that get a label, 0-1.
        precision: Share of right labels among those, 0-1.
    """

    split: str
    images: int
    answered: float
    precision: float


@dataclass(frozen=True, slots=True)
class Abstain:
    """When a model abstains: below a threshold it returns no label.

    Attributes:
        threshold: Probability that the first label must reach, 0-1.
        target_precision: Share of right labels that was asked for, 0-1.
        chosen: Effect on the split that the threshold was chosen on.
        measured: Effect on the test split.
    """

    threshold: float
    target_precision: float
    chosen: Selective
    measured: Selective


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of images and answers in training, to compare with later; see ``histograms``.

    Attributes:
        images: Images of the training split.
        pixel_mean: Mean pixel of an image, 0-255, averaged over images.
        pixel_spread: Standard deviation of the pixels of an image, averaged over images.
        class_shares: Share of each label, 0-1, in the order of the labels; of ``multi-label`` they
            may sum to more: an image counts for each label that it has.
        entropy: Entropy of the probabilities, nats, averaged over the validation split.
    """

    images: int
    pixel_mean: float
    pixel_spread: float
    class_shares: tuple[float, ...]
    entropy: float


def rounding_tolerance(moved: float) -> float:
    """Return how far a probability may differ if rounding alone has moved it by ``moved``."""
    return min(_ROUNDINGS * moved, _MOST_MOVED)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the graph's answers are from those of the network or file that it was made from.

    Attributes:
        images: How many images were compared.
        batch_sizes: Batch sizes of the runs.
        max_logit_difference: Largest absolute difference over all logits.
        max_probability_difference: Largest absolute difference over all probabilities.
        label_agreement: Share of images with the same label, 0-1.
    """

    images: int
    batch_sizes: tuple[int, ...]
    max_logit_difference: float
    max_probability_difference: float
    label_agreement: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared from the encoded file to the probabilities, with the model's own pipeline.

    Attributes:
        reference: Whose answers were expected, for people: a command, or a file of answers.
        images: How many files were compared.
        label_agreement: Share of files with the reference's first label, or one as probable to
            1e-4, 0-1.
        max_probability_difference: Largest absolute difference over all probabilities.
        tolerance: The limit for it.
        max_pixel_difference: Largest difference of the pixels, 0-255, of these files and of
            some that were made: turned, transparent, CMYK, 16 bits; None: not compared.
    """

    reference: str
    images: int
    label_agreement: float
    max_probability_difference: float
    tolerance: float
    max_pixel_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the model came from.

    Attributes:
        git: Revision of the code that made it.
        command: Command that made it.
        seed: Seed of the training.
        dataset: Name of the data, or of the file that was adopted.
        dataset_sha256: Digest of the data, or of that file.
        versions: Version of each library.
        date: When, as ISO 8601.
    """

    git: str
    command: str
    seed: int
    dataset: str
    dataset_sha256: str
    versions: dict[str, str]
    date: str


@dataclass(frozen=True, slots=True)
class Golden:
    """One image with a known answer, which every load replays.

    Attributes:
        path: PNG within the version's directory, of the model's size.
        sha256: Digest of the file.
        label: The label of its highest probability.
        probabilities: Expected probabilities [K], from onnxruntime on the CPU in fp32.
    """

    path: str
    sha256: str
    label: str
    probabilities: tuple[float, ...]
