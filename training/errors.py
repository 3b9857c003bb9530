"""The errors of training and export, by the stage that raises them.

``dataset -> augment -> fit -> evaluate -> export -> verify -> publish``
``DatasetError (dataset), ConfigError (before any stage), RunError (export),
ParityError and GateError (verify)``

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


class ExportError(TrainingError):
    """The exported graph does not follow the contract."""


class ParityError(TrainingError):
    """onnxruntime and torch give different outputs; nothing is published."""


class GateError(TrainingError):
    """A file of lower precision loses too much accuracy; nothing is published."""
