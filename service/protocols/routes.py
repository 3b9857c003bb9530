"""Every route of HTTP that needs the models: which protocol handles a path."""

from collections.abc import Callable

from service.lane.exchange import Handler
from service.protocols.classify import ClassifyProtocol
from service.protocols.engine import Engine
from service.protocols.models import ModelsProtocol
from service.protocols.pixels import PixelsProtocol
from service.protocols.predict import PredictProtocol
from service.protocols.rollout import RolloutProtocol
from service.protocols.v2.http import V2Http
from service.protocols.v2.statistics import Statistics
from service.rollout.model_control import ModelControl


class Routes:
    """The handlers of all protocols.

    Args:
        engine: What all protocols share.
        control: Changes what is served.
        statistics: V2's counts.
        is_ready: Returns whether the service accepts requests.
    """

    def __init__(
        self,
        engine: Engine,
        control: ModelControl,
        statistics: Statistics,
        is_ready: Callable[[], bool],
    ) -> None:
        self._predict = PredictProtocol(engine)
        self._v2 = V2Http(engine, control, statistics, is_ready)
        self._pixels = PixelsProtocol(engine)
        self._classify = ClassifyProtocol(engine)
        self._models = ModelsProtocol(engine, control)
        self._rollout = RolloutProtocol(control)

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if no protocol has it."""
        return (
            self._predict.find(path)
            or self._v2.find(path)
            or self._classify.find(path)
            or self._pixels.find(path)
            or self._models.find(path)
            or self._rollout.find(path)
        )

    def forget(self) -> None:
        """Drop every route with its target: an unloaded model must not be kept in memory."""
        self._predict.forget()
        self._v2.forget()
        self._pixels.forget()
