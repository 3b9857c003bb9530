"""A model whose queue fills quickly, and what many connections get that ask it at once."""

import asyncio
import re
import time
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tests.faults.grafted import grafted_model
from tests.server import RunningServer, post
from tests.tiny import SIDE

ROW_BYTES = SIDE * SIDE


def slow_model() -> onnx.ModelProto:
    """The closed form after about 35 megaflops a row, for nothing; a megabyte."""
    layers = 16
    constants = {
        "first": np.zeros((SIDE * SIDE // 4, 512), np.float32),
        "square": np.zeros((512, 512), np.float32),
    }
    nodes = [helper.make_node("MatMul", ["striped", "first"], ["wide0"])]
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"wide{i}", "square"], [f"wide{i + 1}"]))
    nodes.append(helper.make_node("ReduceSum", [f"wide{layers}", "last"], ["nothing"], keepdims=0))
    nodes.append(helper.make_node("Add", ["scores", "nothing"], ["logits"]))
    return grafted_model(constants, nodes)


def rows_of(name: str, rows: int, *headers: str) -> bytes:
    """A V2 request for black rows, as raw pixels."""
    return post(
        f"/v2/models/{name}/infer",
        bytes(rows * ROW_BYTES),
        "Inference-Header-Content-Length: 0",
        *headers,
    )


@dataclass
class Got:
    """One answer; times in milliseconds, those of ``Server-Timing`` 0 without one."""

    status: int
    body: bytes
    head: str
    took_ms: float

    def timing(self, name: str) -> float:
        found = re.search(rf"{name};dur=([0-9.]+)", self.head)
        return float(found[1]) if found else 0.0


def flood(server: RunningServer, request: bytes, connections: int, seconds: float) -> list[Got]:
    """Ask on so many connections, each again as soon as it is answered; at least once each."""
    answers: list[Got] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while True:
            started = time.monotonic()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = re.search(r"content-length: (\d+)", head)
            assert length is not None, head
            body = await reader.readexactly(int(length[1]))
            took_ms = (time.monotonic() - started) * 1e3
            answers.append(Got(int(head.split()[1]), body, head, took_ms))
            if answers[-1].status == 429:
                await asyncio.sleep(0.02)
            if time.monotonic() > end:
                break
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(connections)))

    end = time.monotonic() + seconds
    asyncio.run(asyncio.wait_for(all_of_them(), 60))
    return answers
