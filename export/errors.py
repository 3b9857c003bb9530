"""What can go wrong while a graph becomes a version.

Every message is one line: ``where: expected X, got Y; how to fix it``.
"""


class ExportError(Exception):
    """The graph, its answers or what was asked for cannot become a version."""


class AdoptError(ExportError):
    """A file made elsewhere is refused; the message starts with its path."""


class RunError(AdoptError):
    """onnxruntime refuses a foreign graph, or fails to run it."""


class ParityError(ExportError):
    """The graph does not answer as its reference does; nothing is published."""


class GateError(ExportError):
    """A file of lower precision loses more than it may; nothing is published."""
