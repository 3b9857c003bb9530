"""BentoML's parts that a service never calls: left out of its processes, which start sooner.

Its client of BentoCloud, its HTTP clients, its writer of Dockerfiles, and its proxy for services
that are another program come with a sixth of all modules. In their place are modules whose classes
nobody can make an object of. httpx and Jinja are loaded when something uses them.

Leans on names inside BentoML; tests/service/workers/test_left_out.py fails without them.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NoReturn

_CLOUD, _CLIENT = "bentoml._internal.cloud", "_bentoml_impl.client"
# All that BentoML imports of them by name.
LEFT_OUT = frozenset(
    {
        _CLOUD,
        f"{_CLOUD}.client",
        f"{_CLOUD}.config",
        f"{_CLOUD}.schemas",
        f"{_CLOUD}.schemas.modelschemas",
        f"{_CLOUD}.schemas.schemasv1",
        _CLIENT,
        "_bentoml_impl.server.proxy",
        "bentoml._internal.container.generate",
    }
)
# Imported whole, so that they can be loaded later.
LATER = frozenset({"httpx", "jinja2"})


class _Nothing:
    """A class of a module that was left out."""

    def __init__(self, *_: object, **__: object) -> NoReturn:
        kind = type(self)
        raise NotImplementedError(
            f"{kind.__module__}.{kind.__name__}: a service needs none, so `foveal serve` leaves it "
            "out; this is a bug"
        )


class _Proxy:
    """What each worker makes to call its own service over HTTP; ours never does."""

    to_async = to_sync = None

    def __init__(self, *_: object, **__: object) -> None:
        """Take what BentoML gives."""

    async def __aenter__(self) -> None:
        """Connect to nothing."""

    async def close(self) -> None:
        """Close nothing."""


class _EmptyModule(ModuleType):
    """A module that has every class that is asked for."""

    def __getattr__(self, name: str) -> type[_Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(name, (_Nothing,), {"__module__": self.__name__})
        setattr(self, name, kind)
        return kind


class Finder:
    """Finds what is left out or comes later, before the interpreter's own finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module; None: as always."""
        if name in LEFT_OUT:
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        if name not in LATER:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module in the place of one that is left out."""
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty, but for what each worker makes."""
        if module.__name__ == _CLIENT:
            module.RemoteProxy = _Proxy  # type: ignore[attr-defined]


def leave_out() -> None:
    """Leave them out of this process and of those that it forks; call it before any is imported."""
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
