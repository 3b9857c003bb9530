"""Triton's four unmodified clients behind one face, so that one suite holds for all of them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from numpy.typing import NDArray

from tests.server import RunningServer

WIRES = ("http-json", "http-binary", "http-aio", "grpc", "grpc-aio")


class Triton:
    """One of Triton's clients.

    Attributes:
        client: It, with every method made to wait if it is asynchronous.
        module: What its inputs and outputs are made of.
    """

    def __init__(self, server: RunningServer, wire: str, runner: asyncio.Runner) -> None:
        self.wire = wire
        self.is_json = wire == "http-json"
        self.module: Any = tritonclient.http if wire.startswith("http") else tritonclient.grpc
        address = server.grpc_address
        if wire.startswith("http"):
            address = server.url.removeprefix("http://")
        self._runner = runner if wire.endswith("aio") else None
        self.client = self.call(lambda: self._open(address))

    def _open(self, address: str) -> Any:
        package: Any = self.module.aio if self._runner is not None else self.module
        return package.InferenceServerClient(address)

    def call(self, what: Any) -> Any:
        """Call, on the loop if this client has one, and wait for what it gives."""
        if self._runner is None:
            return what()

        async def on_loop() -> Any:
            given = what()
            return await given if asyncio.iscoroutine(given) else given

        return self._runner.run(on_loop())

    def __getattr__(self, method: str) -> Any:
        return lambda *words, **named: self.call(
            lambda: getattr(self.client, method)(*words, **named)
        )

    def input(self, values: NDArray[Any], name: str = "images", datatype: str | None = None) -> Any:
        datatype = datatype or ("BYTES" if values.dtype == object else "UINT8")
        tensor = self.module.InferInput(name, list(values.shape), datatype)
        if self.module is tritonclient.http:
            return tensor.set_data_from_numpy(values, binary_data=not self.is_json)
        return tensor.set_data_from_numpy(values)

    def output(self, name: str, classes: int = 0) -> Any:
        if self.module is tritonclient.http:
            return self.module.InferRequestedOutput(
                name, binary_data=not self.is_json, class_count=classes
            )
        return self.module.InferRequestedOutput(name, class_count=classes)


@contextmanager
def triton(server: RunningServer, wire: str) -> Iterator[Triton]:
    with asyncio.Runner() as runner:
        client = Triton(server, wire, runner)
        try:
            yield client
        finally:
            client.close()


def objects(elements: list[bytes]) -> NDArray[np.object_]:
    return np.array(elements, dtype=object)
