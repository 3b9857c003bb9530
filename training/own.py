"""A network of the user's own: ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION`` that makes a module.

The function gets the number of classes, as ``classes`` or ``num_classes``, and ``image_shape`` (H,
W, C) if it asks for it; or nothing, then the last linear layer of its module is replaced. It runs
in this process: its packages must be installed beside Foveal.
"""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from training.errors import ConfigError
from training.layers import ImageShape
from training.parts import replace_head


def is_own(network: str) -> bool:
    """Return whether a name is that of a function that makes a module."""
    place, colon, function = network.rpartition(":")
    return bool(colon and place) and function.isidentifier()


def build_own(network: str, image_shape: ImageShape, classes: int) -> nn.Module:
    """Call the user's function.

    Args:
        network: ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``; the working folder is on the path.
        image_shape: H, W, C of the images.
        classes: K.

    Returns:
        float32 [N, C, H, W] to logits, [N, K]; in two parts where the last linear layer makes them.

    Raises:
        ConfigError: There is no such function, it fails, or makes something else.
    """
    place, _, function = network.rpartition(":")
    make = getattr(_import(network, place), function, None)
    if not callable(make):
        raise ConfigError(f"{network}: expected a function {function} in {place}, got none")
    asked = inspect.signature(make).parameters
    given: dict[str, Any] = {
        "classes": classes,
        "num_classes": classes,
        "image_shape": image_shape,
    }
    try:
        module = make(**{name: value for name, value in given.items() if name in asked})
    except Exception as error:  # the user's code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"{network}: expected a function of classes and image_shape, or of nothing, got "
            f"{reason}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{network}: expected a torch.nn.Module, got {type(module).__name__}")
    return replace_head(module, image_shape, classes)


def _import(network: str, place: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
            assert spec is not None and spec.loader is not None, "a .py file has a loader"
            if str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        return importlib.import_module(place)
    except Exception as error:  # the user's code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(f"{network}: expected a module {place}, got {reason}") from error
