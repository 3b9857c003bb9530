"""Requests of few bytes and many parts: what all of their images together take on the loop."""

import json
import struct

import pytest

from tests.hostile.corpus import chunk, good, segment
from tests.loop_watch import LONGEST_S, LoopClock, held_s, shortest_of
from tests.server import RunningServer, Wire, post


def jpeg_of_segments(count: int, stray: bytes = b"", content: bytes = b"") -> bytes:
    plain = good()["jpeg-grey"]
    return plain[:2] + (segment(0xE1, content) + stray) * count + plain[2:]


def png_of_chunks(count: int, kind: bytes) -> bytes:
    plain = good()["png-grey"]
    return plain[:33] + chunk(kind, b"") * count + plain[33:]


IMAGES = {
    "segments": [jpeg_of_segments(15_900)] * 4,
    "segments and stray bytes": [jpeg_of_segments(12_800, b"x")] * 4,
    "sparse segments": [jpeg_of_segments(4000, content=bytes(58))],
    "segments of many": [jpeg_of_segments(900)] * 60,
    "segments of as many as the loop decodes": [jpeg_of_segments(1000, b"x")] * 16,
    "headers of EXIF": [
        jpeg_of_segments(200, content=b"Exif\0\0MM\0*\0\0\0\x08\0\x60" + bytes(1152))
    ],
    "cut segments": [b"\xff\xd8\xff\xe0"] * 250,
    "cut segments of few": [b"\xff\xd8\xff\xe0"] * 16,
    "chunks": [png_of_chunks(20_000, b"tEXt")],
    "empty rows": [png_of_chunks(5000, b"IDAT")] * 4,
    "pictures": [good()["png-grey"]] * 250,
    "jpegs": [good()["jpeg-grey"]] * 250,
    "webps": [good()["webp-animated"]] * 200,
    "not even headers": [b"RIFF1234WEBPVP8 "] * 250,
}


def form(images: list[bytes]) -> bytes:
    part = b'--edge\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n%s\r\n'
    body = b"".join(part % image for image in images) + b"--edge--\r\n"
    return post("/predict", body, "Content-Type: multipart/form-data; boundary=edge")


def tensor(images: list[bytes]) -> bytes:
    elements = b"".join(struct.pack("<I", len(image)) + image for image in images)
    parameters = {"binary_data_size": len(elements)}
    named = {"name": "images", "datatype": "BYTES", "shape": [len(images)]}
    head = json.dumps({"inputs": [{**named, "parameters": parameters}]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    return post("/v2/models/tiny/infer", head + elements, length)


def answered(wire: Wire, request: bytes) -> None:
    assert wire.send(request).answer().status < 500


@pytest.mark.e2e
@pytest.mark.parametrize("what", IMAGES)
def test_parts_of_images_hold_no_loop(server: RunningServer, what: str) -> None:
    clock = LoopClock(server)
    with Wire(server) as wire:
        for request in (form(IMAGES[what]), tensor(IMAGES[what])):

            def held(request: bytes = request) -> float:
                return held_s(clock, lambda: answered(wire, request))

            held_for_s = shortest_of(20, held)
            assert held_for_s <= LONGEST_S, f"{held_for_s * 1e3:.0f} ms"
