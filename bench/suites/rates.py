"""Rates beside times: bytes a second, and the share of a copy's rate."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

_COPIED_BYTES = 8 << 20
_COPIES = 20


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture of that name."""

    extra_info: dict[str, object]
    stats: Any
    """None where benchmarks are disabled."""

    def __call__(self, function: Callable[..., object], *args: object) -> object: ...

    def pedantic(
        self, target: Callable[..., object], *, setup: Callable[[], object], rounds: int
    ) -> object: ...


@cache
def copied_per_second() -> float:
    """How many bytes a second one thread copies, in the best of several tries."""
    content, best = bytes(_COPIED_BYTES), 0.0
    for _ in range(_COPIES):
        began = time.perf_counter()
        bytearray(content)
        best = max(best, _COPIED_BYTES / (time.perf_counter() - began))
    return best


def measure(benchmark: Benchmark, work: Callable[[], object], size: int) -> object:
    """Time ``work`` on so many bytes; returns what it returned."""
    result = benchmark(work)
    if benchmark.stats is not None:
        rate = size / benchmark.stats.stats.median
        benchmark.extra_info["bytes"] = size
        benchmark.extra_info["MB/s"] = round(rate / 1e6, 1)
        benchmark.extra_info["share of a copy"] = round(rate / copied_per_second(), 4)
    return result
