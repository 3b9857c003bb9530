"""Models as text for people: a table of all versions, or the description of one.

Knows nothing about how a model runs.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from models.artifact import ArtifactError, ImageSpec, ModelArtifact, OpenCVResize, TensorSpec
from models.comparable import why_incomparable
from models.evidence import Gate, Metrics, Proof
from models.labels import distinct_names
from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in the list of all.

    Attributes:
        name: Name of the model.
        version: Its version.
        accuracy: Share of right labels on the test split, 0-1; None if not measured.
        size_bytes: Size of all its ONNX files.
        disk_bytes: What all its files take on the disk.
        routes: Routes without a version number that this version serves, and what it does as a
            candidate; see ``answers``.
        error: Why the version, or with version 0 the model, cannot be read; empty if it can.
    """

    name: str
    version: int
    accuracy: float | None
    size_bytes: int
    disk_bytes: int
    routes: tuple[str, ...] = ()
    error: str = ""


def list_entries(repository: ModelRepository) -> list[Entry]:
    """List every version of every model, by name and version; those that break the contract, too.

    Raises:
        ArtifactError: The repository is missing, or its settings cannot be read.
    """
    entries = []
    for name in repository.names():
        try:
            repository.resolve(name)
        except ArtifactError as error:
            entries.append(Entry(name, 0, None, 0, 0, error=str(error)))
            continue
        for version in repository.versions(name):
            on_disk = disk_bytes(repository, name, version)
            try:
                artifact = repository.load(name, version)
            except ArtifactError as error:
                entries.append(Entry(name, version, None, 0, on_disk, error=str(error)))
                continue
            accuracy = artifact.metrics.accuracy if artifact.metrics else None
            size_bytes = sum(file.size_bytes for file in artifact.files)
            size_bytes += sum(file.data.size_bytes for file in artifact.files if file.data)
            said = answers(repository, artifact)
            entries.append(Entry(name, version, accuracy, size_bytes, on_disk, said))
    return entries


def answers(repository: ModelRepository, artifact: ModelArtifact) -> tuple[str, ...]:
    """Return which requests a version answers in a service that loads the repository.

    Returns:
        Its routes without a version number, the last one with what keeps them at this version or
        takes a part of them away; then its shares as a candidate, or why they have no effect.

    Raises:
        ArtifactError: The settings of the repository cannot be read.
    """
    name, version, settings = artifact.name, artifact.version, repository.settings()
    rollout = settings.rollouts.get(name, NO_ROLLOUT)
    try:
        _, served = repository.resolve(name)
    except ArtifactError as error:  # the pinned version is gone
        return (str(error),)
    said = []
    if version == served:
        said.append(f"/models/{name}/predict")
        if name == _default(repository):
            said.append("/predict")
        notes = ["pinned"] if name in settings.default_versions else []
        canary = rollout.canary
        if canary and not why_no_share(repository, name, canary.version):
            notes.append(f"all but {canary.fraction:.4g}, which version {canary.version} answers")
        said[-1] += f" ({', '.join(notes)})" if notes else ""
    for kind, share in (("shadow", rollout.shadow), ("canary", rollout.canary)):
        if share is not None and share.version == version:
            why = why_no_share(repository, name, version)
            said.append(f"{share.fraction:.4g} as {kind}" + (f": no effect, {why}" if why else ""))
    return tuple(said)


def why_no_share(repository: ModelRepository, name: str, version: int) -> str:
    """Return why a version gets no share of a model's requests; empty if it gets one."""
    try:
        _, served = repository.resolve(name)
        if version == served:
            return "it is the served version"
        return why_incomparable(repository.load(name, version), repository.load(name, served))
    except ArtifactError as error:
        return str(error)


def _default(repository: ModelRepository) -> str:
    try:
        return repository.default_model()
    except ArtifactError:  # there is none
        return ""


def disk_bytes(repository: ModelRepository, name: str, version: int) -> int:
    """Return what a version takes on the disk, with its plan and what was measured about it."""
    folder = repository.path(name, version)
    beside = (repository.plan_path(name, version), repository.measured_path(name, version))
    total = 0
    for path in (folder, *folder.rglob("*"), *beside):
        with contextlib.suppress(OSError):  # there is none, or it has just gone
            total += path.stat().st_blocks * 512
    return total


def tabulate(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    """Return the heading and the rows of a table of versions."""
    lines: list[tuple[str, ...]] = [("name", "version", "accuracy", "size", "disk", "answers")]
    for entry in entries:
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.2%}"
        size = "-" if entry.error else size_text(entry.size_bytes)
        disk = size_text(entry.disk_bytes) if entry.version else "-"
        answers = entry.error or " and ".join(entry.routes)
        lines.append((entry.name, str(entry.version), accuracy, size, disk, answers))
    return lines


def describe(artifact: ModelArtifact) -> list[tuple[str, str]]:
    """Return everything in ``model.json`` as (title, text) pairs, the most important first."""
    image, names = artifact.image, distinct_names(artifact.labels)
    lines = [
        ("model", artifact.reference),
        ("labels", f"{len(artifact.labels)}: {', '.join(names)}"),
        *_task(artifact),
        (
            "image",
            ", ".join((f"{image.mode} {image.width} x {image.height}", *geometry_steps(image))),
        ),
        ("input", _tensors(artifact.inputs)),
        ("outputs", _tensors(artifact.outputs)),
        ("graph", f"opset {artifact.opset}, temperature {artifact.temperature:.4g}"),
        *(
            (
                "file",
                f"{file.path}: {file.computes or file.precision}, {size_text(file.size_bytes)}, "
                f"sha256 {file.sha256}",
            )
            for file in artifact.files
        ),
        *(
            ("", f"{data.path}: its weights, {size_text(data.size_bytes)}, sha256 {data.sha256}")
            for file in artifact.files
            if (data := file.data)
        ),
        *(
            (
                "",
                f"{file.precision} on {gate.images} {gate.split} images: {_gate(gate)}",
            )
            for file in artifact.files
            if (gate := file.gate)
        ),
        ("golden", f"{len(artifact.golden)} images, replayed by every load"),
    ]
    return lines + _measured(artifact) + _origin(artifact)


def _task(artifact: ModelArtifact) -> list[tuple[str, str]]:
    match artifact.task:
        case "single-label":
            return []
        case "binary":
            return [("task", "binary: 1 - p and p of one sigmoid")]
    levels = sorted(set(artifact.thresholds))
    at = f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
    return [("task", f"multi-label, thresholds {at}")]


def _scores(artifact: ModelArtifact, metrics: Metrics) -> list[tuple[str, str]]:
    named = zip(distinct_names(artifact.labels), metrics.per_class, strict=True)
    known = [(name, share) for name, share in named if share is not None]
    each = sorted(known, key=lambda item: item[1])
    before = metrics.calibration_error_before
    exact = ", with all their labels and no other" if artifact.thresholds else ""
    without = "" if before is None else f", {before:.4f} without the temperature"
    return [
        ("accuracy", f"{metrics.accuracy:.2%} of {metrics.images} {metrics.split} images{exact}"),
        ("", ", ".join(f"{name} {share:.1%}" for name, share in each)),
        ("calibration", f"expected error {metrics.calibration_error:.4f}{without}"),
    ]


def _measured(artifact: ModelArtifact) -> list[tuple[str, str]]:
    parity, proof = artifact.parity, artifact.proof
    lines = _scores(artifact, artifact.metrics) if artifact.metrics else []
    if artifact.abstain:
        least, worth = artifact.abstain.threshold, artifact.abstain.measured
        lines.append(
            (
                "abstains",
                f"below {least:.4f}, chosen for {artifact.abstain.target_precision:.2%}: "
                f"answers {worth.answered:.2%} of {worth.images} {worth.split} images, "
                f"{worth.precision:.2%} of them rightly",
            )
        )
    if artifact.statistics:
        seen = artifact.statistics
        lines.append(
            (
                "trained on",
                f"{seen.images} images, pixels {seen.pixel_mean:.1f} on average, spread "
                f"{seen.pixel_spread:.1f}; entropy of the answers {seen.entropy:.3f} nats",
            )
        )
    if parity:
        sizes = ", ".join(map(str, parity.batch_sizes))
        lines += [
            (
                "parity",
                f"{parity.images} images at batch sizes {sizes}: logits within "
                f"{parity.max_logit_difference:.2g}, probabilities within "
                f"{parity.max_probability_difference:.2g}, {parity.label_agreement:.2%} same "
                "labels",
            )
        ]
    if proof:
        lines.append(
            (
                "proof",
                f"{proof.images} files, against {proof.reference}: "
                f"{proof.label_agreement:.2%} same labels{_within(proof)}",
            )
        )
    return lines


def _gate(gate: Gate) -> str:
    scores = ""
    if gate.accuracy is not None and gate.accuracy_drop is not None:
        scores = f"accuracy {gate.accuracy:.2%} ({-gate.accuracy_drop * 100:+.2f} points), "
    return (
        f"{scores}{gate.label_agreement:.2%} of fp32's labels, probabilities within "
        f"{gate.max_probability_difference:.2g}"
    )


def _within(proof: Proof) -> str:
    if proof.tolerance >= 1:  # answers without probabilities
        return ", probabilities not compared"
    pixels = proof.max_pixel_difference
    return (
        f", probabilities within {proof.max_probability_difference:.2g} (limit {proof.tolerance:g})"
        + ("" if pixels is None else f", pixels within {pixels:.2g} of 255")
    )


def _origin(artifact: ModelArtifact) -> list[tuple[str, str]]:
    origin = artifact.provenance
    if origin is None:
        return []
    return [
        ("dataset", f"{origin.dataset}, sha256 {origin.dataset_sha256}"),
        ("made", f"{origin.date}, git {origin.git}, seed {origin.seed}"),
        ("command", origin.command),
        ("versions", ", ".join(f"{name} {v}" for name, v in origin.versions.items())),
    ]


def geometry_steps(image: ImageSpec) -> list[str]:
    """Return what is done to a decoded picture, in order, in words for people."""
    resize, (height, width) = image.resize, image.resized
    if isinstance(resize, OpenCVResize):
        steps = [f"{resize.rule} if of another size ({resize.interpolation} of OpenCV)"]
    else:
        steps = []
        if resize is not None:
            side = "both sides" if resize.side == "both" else f"the {resize.side} side"
            steps.append(f"{side} resized to {width} x {height} ({resize.filter})")
        if resize is None or resize.side != "both" or not image.keeps_own_size:
            colour = list(image.crop.colour) if image.crop.colour else "black"
            steps.append(f"{image.crop.place} cropped, or padded with {colour}")
    if not image.exif:
        steps.append("EXIF ignored")
    if image.background is not None:
        steps.append(f"transparency over {list(image.background)}")
    if image.clip_16_bits:
        steps.append("grey of 16 bits clipped")
    if image.scaled_decoding:
        steps.append("JPEG at a scale")
    return steps


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in tensors)


def size_text(size_bytes: int) -> str:
    """Return a size in MiB, or in KiB below one."""
    mib = size_bytes / (1 << 20)
    return f"{mib:.1f} MiB" if mib >= 1 else f"{math.ceil(size_bytes / 1024)} KiB"
