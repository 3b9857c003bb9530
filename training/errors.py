"""What can go wrong offline, by the stage that notices it.

``dataset -> augment -> fit -> evaluate -> export -> verify -> publish``
``DatasetError (dataset), ConfigError (before any stage), RunError (export),
ParityError and GateError (verify)``

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


class ExportError(TrainingError):
    """The exported graph is not the one that the contract asks for."""


class ParityError(TrainingError):
    """onnxruntime does not answer as torch does; nothing is published."""


class GateError(TrainingError):
    """A file of lower precision loses more than it may; nothing is published."""
