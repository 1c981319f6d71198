"""A call's round trip to another process: the engine's beside other ways to make one."""

import contextlib

from holdfast.bench.measure import Measurement
from holdfast.bench.peers import limits
from holdfast.bench.peers.contest import Contest, Work
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.processes import KINDS, NOTHING, Keeper
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.transport import size_name

_REQUEST = bytes(8)
_SMALL_BYTES = 100_000
_FEWER = 10
_NO_WRITE = "nothing is written"


def compare(contest: Contest, sizes: Sizes) -> None:
    """All rows of this area."""
    bodies = (NOTHING, *sizes.bodies)
    with contextlib.ExitStack() as stack:

        def make(_: str, kind: Kind[Keeper]) -> Keeper:
            keeper = kind.make(stack.enter_context(contest.run.fresh()), bodies)
            stack.callback(keeper.close)
            for size in bodies:
                assert len(keeper.get(size)) == size, "another body"
            return keeper

        keepers = contest.enter(KINDS, make)
        ask = stack.enter_context(limits.piped())
        for size in bodies:
            calls = sizes.calls if size < _SMALL_BYTES else max(1, sizes.calls // _FEWER)
            what = f"ask for {size_name(size)}" if size else "the cheapest call, without a body"
            contest.compare(
                Work(f"call-{size}", what, "call", _NO_WRITE,
                     "the same over a bare multiprocessing.Pipe"),
                {name: _calling(keeper, size, calls) for name, keeper in keepers.items()},
                limits.asked(ask, _REQUEST, size, calls),
                sizes.repetitions,
            )  # fmt: skip


def _calling(keeper: Keeper, size: int, calls: int) -> Measurement:
    return lambda: keeper.seconds_per_call(size, calls)
