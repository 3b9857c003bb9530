"""What can go wrong offline, by the stage that notices it.

``dataset -> augment -> fit -> evaluate -> graph -> (export)``
``DatasetError (dataset), ConfigError (before any stage), RunError (graph)``; ``export.errors`` has
those of proof, gate and publishing.

Every message is one line: ``where: expected X, got Y; how to fix it``.
"""


class TrainingError(Exception):
    """Anything that the user of ``train`` or ``export`` can do something about."""


class ConfigError(TrainingError):
    """A name or a number in the configuration is not one that exists or makes sense."""


class DatasetError(TrainingError):
    """The data is missing, damaged or not what its name says."""


class RunError(TrainingError):
    """A run folder is missing, unfinished, or was made by something else."""
