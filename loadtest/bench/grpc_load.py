"""A closed loop of gRPC calls: what wrk is for HTTP.

    python loadtest/bench/grpc_load.py ADDRESS REQUEST_FILE CONCURRENCY SECONDS

The request is a serialised ModelInferRequest; answers are not parsed, so that the client costs
little of what it measures. Prints one JSON object: requests/s, milliseconds, failures.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def measure(
    address: str, request: bytes, concurrency: int, seconds: float
) -> dict[str, float]:
    """Keep some calls out over four channels for a while.

    Returns:
        ``requests_per_s``, ``p50_ms``, ``p99_ms``, ``failed``.
    """
    took: list[float] = []
    failed = 0
    # A channel is one connection; arguments of its own keep it from sharing another's.
    channels = [grpc.aio.insecure_channel(address, [("foveal.channel", i)]) for i in range(4)]
    calls = [channel.unary_unary(METHOD) for channel in channels]  # bytes in, bytes out
    await calls[0](request, wait_for_ready=True, timeout=60)
    started = time.perf_counter()

    async def drive(number: int) -> None:
        nonlocal failed
        call = calls[number % len(calls)]
        while (begun := time.perf_counter()) - started < seconds:
            try:
                await call(request)
                took.append(time.perf_counter() - begun)
            except grpc.aio.AioRpcError:
                failed += 1

    await asyncio.gather(*(drive(number) for number in range(concurrency)))
    elapsed = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    cuts = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    return {
        "requests_per_s": len(took) / elapsed,
        "p50_ms": cuts[49] * 1e3,
        "p99_ms": cuts[98] * 1e3,
        "failed": failed,
    }


if __name__ == "__main__":
    figures = measure(
        sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), float(sys.argv[4])
    )
    print(json.dumps(asyncio.run(figures)))
