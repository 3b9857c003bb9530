"""``POST /classify``: one image in a form, as BentoML's client sends it.

BentoML declares the method, for its client and the OpenAPI document; the lane answers it. Nothing
is stored in a file, opened by its name or fetched from its URL.
"""

from dataclasses import dataclass
from functools import partial

import orjson

from service.errors import InvalidInputError, ServiceError, UnsupportedMediaError
from service.lane.exchange import Exchange, Handler
from service.protocols.body_work import BodyWork
from service.protocols.engine import Engine
from service.protocols.multipart import INLINE_BYTES, MEDIA_TYPE, Part, read_parts
from service.protocols.predict import PROTOCOL, TOP, PredictRoute, answer_files, read_top

PATH = b"/classify"
# The method has four parameters; a browser's form may send a few of its own.
MAX_PARTS = 16
MAX_TEXT_BYTES = 1024
_FORM = MEDIA_TYPE.decode()
_HOW = "send the image itself, as `curl -F image=@image.png` does"


class ClassifyProtocol:
    """The handler of ``/classify``.

    Args:
        engine: What all protocols share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        return self._answer if path == PATH else None

    def _answer(self, exchange: Exchange) -> None:
        if exchange.method == "POST":
            _Call(self._engine, exchange).begin()
        else:
            PredictRoute(self._engine, "", "").find(exchange)  # refuses and counts it


class _Call(BodyWork):
    """One call of the method.

    Args:
        engine: What all protocols share.
        exchange: The request to answer.
    """

    __slots__ = ()

    def __init__(self, engine: Engine, exchange: Exchange) -> None:
        super().__init__(engine, exchange, 0.0)

    def begin(self) -> None:
        """Open the body, now or on a thread."""
        exchange = self._exchange
        try:
            timeout_s = exchange.timeout_s(self._engine.request_timeout_s)
            self._deadline = exchange.received_at + timeout_s
            self._expand(self._read)
        except ServiceError as error:
            self._fail(error)

    def _read(self, body: bytes) -> None:
        read = partial(read_form, self._exchange.content_type or b"", body)
        self._do(read, len(body), self._classify, is_inline=len(body) <= INLINE_BYTES)

    def _classify(self, form: "ClassifyForm") -> None:
        exchange = self._exchange
        if exchange.disconnected:
            self._held.give()
            return
        target = self._engine.find(form.model, form.version)
        target = target.choose(exchange.request_id)
        try:
            top = read_top(form.top, len(target.classifier.artifact.labels))
        except ServiceError as error:
            self._held.give()
            target.fail(PROTOCOL, exchange, error)
            return
        answer_files([form.image], exchange, target, top, self._deadline, self._held)

    def _fail(self, error: ServiceError) -> None:
        """Answer a request whose target is not known."""
        self._held.give()
        self._engine.meters.count_refusal(PROTOCOL, error.status)
        self._exchange.fail(error)


@dataclass(frozen=True, slots=True)
class ClassifyForm:
    """The parameters of one call.

    Attributes:
        image: An encoded image.
        model: Name of a model; empty: the default one.
        version: One of its versions; empty: the default one.
        top: How many labels to return, as it was sent.
    """

    image: bytes
    model: str
    version: str
    top: str


def read_form(content_type: bytes, body: bytes) -> ClassifyForm:
    """Read the form of one call; fields that the method does not have are ignored.

    Raises:
        InvalidInputError: Not a form, a broken form, or a field of another kind.
        TooLargeError: The headers of a part are too long or too many.
        UnsupportedMediaError: The body is of a media type that carries no fields.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise _not_a_form(media_type.decode("latin-1"))
    image: bytes | None = None
    texts: dict[str, str] = {}
    for count, part in enumerate(read_parts(content_type, body)):
        if count == MAX_PARTS:
            raise InvalidInputError(f"{_FORM}: expected at most {MAX_PARTS} parts, got more")
        name = part.name.decode("utf-8", "replace")
        if part.is_unchosen or name not in ("image", "model", "version", "top"):
            continue
        if name in texts or (name == "image" and image is not None):
            raise InvalidInputError(f"field {name!r}: expected once, got it twice")
        if name == "image":
            if not part.is_file:
                raise InvalidInputError(f"field 'image': expected a file, got text; {_HOW}")
            image = body[part.start : part.end]
        else:
            texts[name] = _read_text(name, part, body)
    if image is None:
        raise InvalidInputError(f"field 'image': expected a file, got none; {_HOW}")
    return ClassifyForm(
        image,
        texts.get("model", ""),
        _read_version(texts.get("version", "")),
        texts.get("top", str(TOP)),
    )


def _not_a_form(media_type: str) -> ServiceError:
    """Return the error for a body that is no multipart form."""
    expected = f"expected {_FORM} with a file in the field 'image'"
    match media_type:
        case "application/json" | "":
            return InvalidInputError(f"body: {expected}, got JSON or no content type; {_HOW}")
        case "application/x-www-form-urlencoded":
            return InvalidInputError(f"body: {expected}, got a form without files; {_HOW}")
    return UnsupportedMediaError(f"content-type: {expected}, got {media_type[:100]!r}")


def _read_text(name: str, part: Part, body: bytes) -> str:
    """Return a field's text: a JSON value as BentoML's client sends it, or plain text."""
    if part.is_file:
        raise InvalidInputError(f"field {name!r}: expected text, got a file")
    if part.end - part.start > MAX_TEXT_BYTES:
        raise InvalidInputError(f"field {name!r}: expected at most {MAX_TEXT_BYTES} bytes")
    try:
        text = body[part.start : part.end].decode()
        if text.startswith('"'):
            text = orjson.loads(text)
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are
        raise InvalidInputError(f"field {name!r}: expected text in UTF-8 or a JSON value") from None
    return text


def _read_version(text: str) -> str:
    """Return a version as requests name it; 0 stands for the default one, as nothing does."""
    if not text:
        return ""
    if not (text.isascii() and text.isdecimal()):
        raise InvalidInputError(f"field 'version': expected a whole number, got {text[:40]!r}")
    return text.lstrip("0")
