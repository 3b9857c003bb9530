"""Which versions can be compared: a candidate takes the images and gives the labels of another."""

from dataclasses import fields, replace

from models.artifact import ModelArtifact


def why_incomparable(candidate: ModelArtifact, served: ModelArtifact) -> str:
    """Return why a version can't be canary or shadow of another, one line; empty if it can.

    Precisions may differ, and so may scaled decoding: it changes pixels less than a label does.
    """
    got = _difference(candidate, served)
    return got and (
        f"{candidate.reference}: expected the images, labels and task of {served.reference}, "
        f"got {got}"
    )


def _difference(candidate: ModelArtifact, served: ModelArtifact) -> str:
    if candidate.task != served.task:
        return f"the task {candidate.task}, not {served.task}"
    if len(candidate.labels) != len(served.labels):
        return f"{len(candidate.labels)} labels, not {len(served.labels)}"
    for index, (mine, theirs) in enumerate(zip(candidate.labels, served.labels, strict=True)):
        if mine != theirs:
            return f'"{mine}" as label {index}, not "{theirs}"'
    image = replace(candidate.image, scaled_decoding=served.image.scaled_decoding)
    for field in fields(image):
        mine, theirs = getattr(image, field.name), getattr(served.image, field.name)
        if mine != theirs:
            return f"image.{field.name} {mine}, not {theirs}"
    return ""
