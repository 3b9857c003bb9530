"""Where the figures of each epoch also go: Lightning's own loggers, by name.

``metrics.csv`` is written in any case. MLflow and Weights & Biases are not installed with Foveal;
they find their servers and keys where they always do, in ``MLFLOW_TRACKING_URI``, ``WANDB_MODE``
and the like.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from training.config import TrainConfig
from training.errors import ConfigError

LoggerName = Literal["tensorboard", "mlflow", "wandb", "none"]

# The experiment or the project of all runs, unless the environment names another.
_PROJECT = "foveal"


def _mlflow(config: TrainConfig) -> Logger:
    # MLflow 3 no longer writes into a plain folder, its own default until then.
    beside = f"sqlite:///{(config.run / 'mlflow.db').absolute()}"
    config.run.mkdir(parents=True, exist_ok=True)
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=config.run.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", beside),
    )


def _wandb(config: TrainConfig) -> Logger:
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(name=config.run.name, project=project, save_dir=config.run)


# By the name of the package.
_BUILDERS: dict[str, Callable[[TrainConfig], Logger]] = {"mlflow": _mlflow, "wandb": _wandb}


def build_logger(name: LoggerName, config: TrainConfig) -> Logger | bool:
    """Return a logger for a run, with the run's configuration; False for none.

    TensorBoard's is left out where TensorBoard is not installed.

    Raises:
        ConfigError: The package of the logger is not installed, or its server does not answer.
    """
    if name == "none" or (name == "tensorboard" and find_spec("tensorboard") is None):
        return False
    if name == "tensorboard":
        return TensorBoardLogger(config.run, name="tensorboard", version="")
    if find_spec(name) is None:
        raise ConfigError(f"logger: expected the package {name}, got none; pip install {name}")
    try:
        logger = _BUILDERS[name](config)
        logger.log_hyperparams(config.to_json())
    except Exception as error:  # each package has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"logger: expected {name} to take the run, got {reason}") from error
    return logger
