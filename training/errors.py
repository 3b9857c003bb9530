"""The errors of training and export, by the stage that raises them.

``dataset -> augment -> fit -> evaluate -> graph -> (export)``
``DatasetError (dataset), ConfigError (before any stage), RunError (graph)``; ``export.errors`` has
those of proof, gate and publishing.

Every message is one line: ``where: expected X, got Y; how to fix it``.
"""


class TrainingError(Exception):
    """An error that the user of ``train`` or ``export`` can fix."""


class ConfigError(TrainingError):
    """A name in the configuration does not exist, or a number is out of range."""


class DatasetError(TrainingError):
    """The data is missing, damaged, or of another kind than its name."""


class RunError(TrainingError):
    """A run folder is missing, unfinished, or made by another program."""
