"""JSON's true and false are no pixels, though Python takes them for 1 and 0."""

from typing import Any

import numpy as np
import orjson
import pytest

from service.errors import InvalidInputError
from service.protocols.limits import BodyLimits
from service.protocols.v2.codec import read_pixels
from service.protocols.v2.json_body import read_request

ROW = (2, 2, 1)
FLAT = [0, 1, 2, 3, 4, 5, 6, 7]


def read(data: list[Any], **changes: Any) -> list[int]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, *ROW], "data": data}
    document = {"inputs": [tensor | changes.pop("of_input", {})]} | changes
    [read] = read_request(orjson.dumps(document), None, BodyLimits()).inputs
    pixels: list[int] = read_pixels(read, ROW, 64).ravel().tolist()
    return pixels


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([*FLAT[:5], True, False, 7], "true at [1, 0, 1, 0]"),
        ([False, *FLAT[1:]], "false at [0, 0, 0, 0]"),
        ([[[[0], [1]], [[0], [1]]], [[[0], [1]], [[0], [False]]]], "false at [1, 1, 1, 0]"),
    ],
)
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"parameters": {"binary_data_output": False, "true": True}},
        {"of_input": {"parameters": {"x": True}}},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": False}}]},
    ],
)
def test_a_boolean_among_pixels_is_refused_by_its_place(
    data: list[Any], said: str, others: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError) as error:
        read(data, **others)
    assert str(error.value) == (f'input "images": expected whole numbers from 0 to 255, got {said}')
    numbers = np.array(data, int).ravel().tolist()
    assert read(numbers, **others) == numbers
    assert read(numbers, id="true or false") == numbers
