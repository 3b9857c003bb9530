"""What a client tells about one row: read as it was sent, before the answer is looked for."""

from dataclasses import dataclass
from typing import Any

from service.errors import InvalidInputError

# Of a stream's message: the stream's, of up to 128, a hyphen, and a number.
MAX_ID_BYTES = 128 + 12
MAX_ROW = 1 << 20
_KINDS = ("label", "index", "labels", "indexes")


@dataclass(frozen=True, slots=True)
class Truth:
    """What is said to be true of one row.

    Attributes:
        id: Of its request.
        row: Its number in the request, from 0.
        labels: Labels as texts or indexes; one, unless ``is_several``.
        is_several: Whether it is for a multi-label model.
    """

    id: str
    row: int
    labels: tuple[str | int, ...]
    is_several: bool

    def line(self) -> dict[str, Any]:
        """Return it as it is kept with a recording."""
        is_text = bool(self.labels) and isinstance(self.labels[0], str)
        line: dict[str, Any] = {"id": self.id, "row": self.row}
        if self.is_several:
            return {**line, "labels" if is_text else "indexes": self.labels}
        return {**line, "label" if is_text else "index": self.labels[0]}


def read_truth(item: Any) -> Truth:
    """Read one truth as it was sent.

    Raises:
        InvalidInputError: It is none.
    """
    if not isinstance(item, dict):
        raise InvalidInputError(f'expected {{"id", "row", "label"}}, got {shown(item)}')
    if unknown := item.keys() - {"id", "row", *_KINDS}:
        raise InvalidInputError(
            f"expected id, row and one of {', '.join(_KINDS)}, got {shown(min(unknown))}"
        )
    request_id, row = item.get("id"), item.get("row", 0)
    if not (
        isinstance(request_id, str)
        and request_id.isascii()
        and 1 <= len(request_id) <= MAX_ID_BYTES
    ):
        raise InvalidInputError(f"id: expected an answer's X-Request-Id, got {shown(request_id)}")
    if type(row) is not int or not 0 <= row < MAX_ROW:
        raise InvalidInputError(f"row: expected a whole number from 0, got {shown(row)}")
    given = [kind for kind in _KINDS if kind in item]
    if len(given) != 1:
        raise InvalidInputError(f"expected one of {', '.join(_KINDS)}, got {len(given)}")
    value, is_several = item[given[0]], given[0] in ("labels", "indexes")
    wanted: type = str if given[0] in ("label", "labels") else int
    values = value if is_several else [value]
    if not isinstance(values, list) or not all(type(each) is wanted for each in values):
        raise InvalidInputError(
            f"{given[0]}: expected {'a list of ' if is_several else ''}"
            f"{'text' if wanted is str else 'a whole number'}, got {shown(value)}"
        )
    return Truth(request_id, row, tuple(values), is_several)


def shown(value: Any) -> str:
    """Return the beginning of a value, for a message."""
    return repr(value)[:60]
