"""Tensors on the wire, without a wire."""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import InvalidInputError, ServiceError, TooLargeError
from service.protocols.v2.codec import (
    DATATYPES,
    InputTensor,
    OutputTensor,
    check_tensor,
    classify,
    read_elements,
    read_images,
    read_pixels,
    write_elements,
)

ROW = (4, 3, 1)
IMAGES = npst.arrays(np.uint8, st.tuples(st.integers(1, 5), *map(st.just, ROW)))


def tensor(
    shape: list[int], *, datatype: str = "UINT8", buffer: bytes | None = None, elements: Any = None
) -> InputTensor:
    return InputTensor(
        "images", datatype, shape, None if buffer is None else memoryview(buffer), elements
    )


@given(IMAGES)
def test_pixels_are_the_same_in_every_form(images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    shape = list(images.shape)
    for sent in (
        tensor(shape, buffer=images.tobytes()),
        tensor(shape, elements=images.ravel().tolist()),
        tensor(shape, elements=images.tolist()),
    ):
        read = read_pixels(sent, ROW, 8)
        assert read.dtype == np.uint8 and read.flags.c_contiguous
        np.testing.assert_array_equal(read, images)


def test_pixels_that_came_as_bytes_are_not_copied() -> None:
    buffer = bytes(24)
    read = read_pixels(tensor([2, *ROW], buffer=buffer), ROW, 8)
    assert np.shares_memory(read, np.frombuffer(buffer, np.uint8))


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (tensor([1, 3, 4, 1], buffer=bytes(12)), r"expected UINT8 \[-1, 4, 3, 1\], got UINT8"),
        (tensor([12], buffer=bytes(12)), r"got UINT8 \[12\]"),
        (tensor([], elements=[1]), r"got UINT8 \[\]"),
        (tensor([0, *ROW], buffer=b""), "at least 1 row, got 0"),
        (tensor([1, *ROW], buffer=bytes(11)), "expected 12 bytes .* got 11"),
        (tensor([1, *ROW], buffer=bytes(13)), "expected 12 bytes .* got 13"),
        (tensor([1, *ROW], elements=[0] * 11), "expected 12 elements .* got 11"),
        (tensor([1, *ROW], elements=[]), "expected 12 elements .* got 0"),
        (tensor([1, *ROW], elements=[256] * 12), "whole numbers from 0 to 255"),
        (tensor([1, *ROW], elements=[-1] * 12), "whole numbers from 0 to 255"),
        (tensor([1, *ROW], elements=[0.5] * 12), "whole numbers from 0 to 255"),
        (tensor([1, *ROW], elements=["1"] * 12), "whole numbers from 0 to 255"),
        (tensor([1, *ROW], elements=[None] * 12), "whole numbers from 0 to 255"),
        (tensor([1, *ROW], elements=[0] * 11 + [[0]]), "whole numbers from 0 to 255"),
        (tensor([2, *ROW], elements=[[0] * 12, [0] * 12]), "nested as"),
        (tensor([1, *ROW], elements=[[[[0]] * 4] * 3]), "nested as"),
        (tensor([1, *ROW], elements=[[[[0]] * 3] * 3 + [[[0]] * 2]]), "nested as"),
        (tensor([1, *ROW], elements=[[[[0]] * 3] * 4] * 2), "nested as"),
        (tensor([1, *ROW], elements=[{"0": 1}] * 12), "whole numbers from 0 to 255"),
    ],
)
def test_pixels_that_are_not_what_they_say(sent: InputTensor, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        read_pixels(sent, ROW, 8)


@pytest.mark.parametrize("rows", [9, 10**6, 2**62, 10**19])
def test_a_shape_that_lies_is_refused_before_anything_of_its_size_is_made(rows: int) -> None:
    with pytest.raises(TooLargeError, match="at most 8 rows"):
        read_pixels(tensor([rows, *ROW], elements=[0]), ROW, 8)
    with pytest.raises(TooLargeError, match="at most 8 rows"):
        read_images(tensor([rows], datatype="BYTES", buffer=b""), 8)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_elements_come_back_as_they_are(elements: list[bytes]) -> None:
    buffer = write_elements(elements)
    assert read_elements(memoryview(buffer), len(elements), "images") == elements
    for shape in ([len(elements)], [len(elements), 1]):
        for sent in (
            tensor(shape, datatype="BYTES", buffer=buffer),
            tensor(shape, datatype="BYTES", elements=elements),
            tensor(
                shape,
                datatype="BYTES",
                elements=[base64.b64encode(element).decode() for element in elements],
            ),
        ):
            assert read_images(sent, 8) == elements


@given(st.binary(max_size=60), st.integers(1, 5))
def test_any_bytes_are_elements_or_are_refused(buffer: bytes, count: int) -> None:
    try:
        elements = read_elements(memoryview(buffer), count, "images")
    except ServiceError as error:
        assert error.status == 400
    else:
        assert write_elements(elements) == buffer and len(elements) == count


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (tensor([1, 2], datatype="BYTES", buffer=b""), r"BYTES \[-1\] or \[-1, 1\]"),
        (tensor([], datatype="BYTES", buffer=b""), r"BYTES \[-1\] or \[-1, 1\]"),
        (tensor([1], datatype="BYTES", buffer=b""), "expected 1 elements .* got 0"),
        (tensor([1], datatype="BYTES", buffer=b"\xff\xff\xff\xff"), "ends at 4294967299"),
        (tensor([1], datatype="BYTES", buffer=b"\1\0\0"), "ends at 4"),
        (tensor([2], datatype="BYTES", buffer=b"\0\0\0\0"), "expected 2 elements .* got 1"),
        (tensor([1], datatype="BYTES", buffer=bytes(8)), "got 1 and 4 bytes more"),
        (tensor([1], datatype="BYTES", elements=["no base64!"]), "base64"),
        (tensor([1], datatype="BYTES", elements=["ä"]), "base64"),
        (tensor([1], datatype="BYTES", elements=[1]), "base64"),
        (tensor([2], datatype="BYTES", elements=["AAAA"]), "expected 2 elements"),
    ],
)
def test_images_that_are_not_what_they_say(sent: InputTensor, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        read_images(sent, 8)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_datatypes_of_the_protocol_are_known(datatype: str) -> None:
    check_tensor(tensor([1], datatype=datatype))


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (tensor([1], datatype="STRING"), "expected a datatype"),
        (tensor([1], datatype="uint8"), "expected a datatype"),
        (tensor([1], datatype="X" * 10_000), "expected a datatype"),
        (tensor([-1]), "sizes from 0"),
        (tensor([1] * 9), "at most 8"),
        (tensor([1] * 100_000), "at most 8"),
    ],
)
def test_tensors_of_no_protocol(sent: InputTensor, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match) as refused:
        check_tensor(sent)
    assert len(refused.value.message) < 300


def test_classification_is_written_as_triton_does() -> None:
    """C++'s std::to_string has six decimals."""
    values = np.array([[0.25, 1e-9, 12345.678]], np.float32)
    order = np.array([[2, 0, 1]])
    assert classify(values, order, ("a", "b:c", "ü")) == [
        b"12345.677734:2:\xc3\xbc",
        b"0.250000:0:a",
        b"0.000000:1:b:c",
    ]


def test_outputs_are_little_endian_and_row_major() -> None:
    values = np.array([[1, 2], [3, 4]], np.float32)
    output = OutputTensor("logits", "FP32", [2, 2], values)
    assert output.buffer() == np.array([1, 2, 3, 4], "<f4").tobytes()
    assert OutputTensor("logits", "BYTES", [1], [b"ab"]).buffer() == b"\2\0\0\0ab"
