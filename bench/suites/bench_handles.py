"""Calls of a program on a real engine: every operation of the load tests, on a filled store."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.bench.load import profile
from holdfast.bench.load.clients import Prepared
from holdfast.bench.load.profile import OPERATIONS, AnyLoad
from holdfast.bench.load.work import Client, Work, preload, work_of
from holdfast.bench.run import directory_of
from holdfast.bench.suites.rates import Benchmark

LOADS: dict[str, AnyLoad] = {load.kind: load for load in profile.load("mixed").stores}
ROUNDS = 100
CALLS = [(kind, name) for kind in LOADS for name in sorted(OPERATIONS[kind])]


@pytest.fixture(scope="module")
def engine() -> Iterator[holdfast.Engine]:
    """Stores of all kinds, filled."""
    with (
        directory_of(".") as directory,
        holdfast.open(directory) as opened,
    ):
        for load in LOADS.values():
            preload(opened, load, "always")
        yield opened


@pytest.fixture(scope="module")
def works() -> dict[str, Work[Any, Any]]:
    """One client's work on each; what it knows of the stores lasts as long as they do."""
    found = {}
    for kind, load in LOADS.items():
        work = work_of(kind)
        truth = work.knowledge(load, [0], 1)
        found[kind] = work(load, truth, Client(0, 1), np.random.default_rng(1))
    return found


@pytest.mark.parametrize(("kind", "name"), CALLS)
def test_call(
    benchmark: Benchmark,
    engine: holdfast.Engine,
    works: dict[str, Work[Any, Any]],
    kind: str,
    name: str,
) -> None:
    """One call, durable under ``always``; its answer is judged outside of the time."""
    work = works[kind]
    handle = work.open(engine, work.load, "always")
    operation = work.operations()[name]
    answered: list[tuple[Prepared, object]] = []

    def judge() -> None:
        while answered:
            prepared, answer = answered.pop()
            prepared.judge(answer)

    def prepare() -> tuple[tuple[Prepared], dict[str, object]]:
        judge()
        return (Prepared(f"{kind}.{name}", handle, operation()),), {}

    def call(prepared: Prepared) -> None:
        answered.append((prepared, prepared.call()))

    benchmark.pedantic(call, setup=prepare, rounds=ROUNDS)
    judge()
