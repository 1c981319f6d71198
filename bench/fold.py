"""The fold's everyday calls: one get, single puts from many callers, batches from one."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import holdfast
from holdfast.bench import data
from holdfast.bench.bare import BareLog
from holdfast.bench.callers import (
    OneCall,
    calls_per_second,
    fold_callers,
    processes_calls_per_second,
    start_echo,
)
from holdfast.bench.measure import (
    Budget,
    Measurement,
    Row,
    Samples,
    at_least,
    at_most,
    best,
    in_turn,
    medians,
    seconds,
    seconds_per_call,
)
from holdfast.bench.peers import key_value_stores as stores
from holdfast.bench.peers.kinds import installed, missing
from holdfast.bench.run import Run
from holdfast.formats.values import AnyUpdate
from holdfast.workers.message import Durability

T = TypeVar("T")

THREADS = 64
PROCESSES = 4


def get(run: Run) -> list[Row]:
    """``get`` of 200 bytes against an echo of the same bytes over ``multiprocessing.Pipe``."""
    calls, body = run.sizes.calls, data.value(0)
    pipe, end_echo = start_echo()

    def echo() -> None:
        pipe.send_bytes(body)
        pipe.recv_bytes()

    with run.fresh() as directory, holdfast.open(directory) as engine:
        fold = engine.fold("config")
        fold.apply(data.puts([0]), holdfast.Cursor.from_u64(1))
        key = data.key(0)
        measurements: dict[str, Measurement] = {
            "get": lambda: seconds_per_call(lambda: fold.get(key), calls) * 1e6,
            "echo": lambda: seconds_per_call(echo, calls) * 1e6,
        }
        in_turn(measurements, 1)  # warm up
        samples = in_turn(measurements, 3 * run.sizes.repetitions)
    end_echo()
    middle = medians(samples)
    return [
        Row("get", "fold.get of 200 B, one caller", middle["get"], "us", "echo over a Pipe",
            middle["echo"], at_most(2.0), samples=samples)
    ]  # fmt: skip


# --- single puts from many callers -------------------------------------------------------------


def callers(run: Run) -> list[Row]:
    """One put a call, synced before it returns, from 64 callers at once."""
    samples = in_turn(_thread_loads(run), run.sizes.long_repetitions)
    samples |= in_turn(_process_loads(run), run.sizes.long_repetitions)
    middle = medians(samples)
    name, rate = best(middle, installed(stores.BESIDE))
    rows = []
    for shape, title in (("threads", "64 threads"), ("processes", "4 processes x 16 threads")):
        always, never = middle[f"{shape} always"], middle[f"{shape} never"]
        what = f"apply of one put, always, {title}"
        rows.append(
            Row(f"callers-{shape}", what, always, "calls/s", "itself under never", never,
                at_least(0.6), samples=samples)
        )  # fmt: skip
        rows.append(
            Row(f"callers-{shape}-peers", what, always, "calls/s", f"{name}, a sync per put, "
                "64 threads", rate, at_least(2.0), _peers_note(middle),
                absent=missing(stores.BESIDE))
        )  # fmt: skip
    return rows


def _thread_loads(run: Run) -> dict[str, Measurement]:
    def fold_load(durability: Durability) -> float:
        with _fold(run, durability) as fold:
            return calls_per_second(fold_callers(fold, THREADS), run.sizes.load_s)

    def peer_load(name: str) -> float:
        with _peer(run, name, synced=True) as peer:
            load = [_peer_caller(peer, number) for number in range(THREADS)]
            return calls_per_second(load, run.sizes.load_s)

    loads: dict[str, Measurement] = {
        "threads always": lambda: fold_load("always"),
        "threads never": lambda: fold_load("never"),
    }
    return loads | {name: _bound(peer_load, name) for name in installed(stores.BESIDE)}


def _process_loads(run: Run) -> dict[str, Measurement]:
    def load(durability: Durability) -> float:
        with run.fresh() as directory:
            return processes_calls_per_second(
                directory, durability, PROCESSES, THREADS // PROCESSES, run.sizes.load_s
            )

    return {
        "processes always": lambda: load("always"),
        "processes never": lambda: load("never"),
    }


def _peer_caller(peer: stores.Peer, number: int) -> OneCall:
    key, value = data.key(number).encode(), data.value(number)
    return lambda _: peer.put(key, value)


# --- batches -----------------------------------------------------------------------------------


def batches_never(run: Run) -> list[Row]:
    """Batches of 1,024 without syncs, against a bare log and against the peers."""
    work = data.batches(run.sizes.batches * data.BATCH)
    entries = run.sizes.batches * data.BATCH

    def bare() -> float:
        with run.fresh() as directory, contextlib.closing(BareLog(f"{directory}/log")) as log:
            return entries / seconds(lambda: _each(log.apply, work))

    samples = _batch_samples(run, work, "never", {"bare log": bare})
    middle = medians(samples)
    what = "apply in batches of 1,024, never"
    return [
        Row("batches-never-bare", what, middle["fold"], "entries/s", "bare log + dict",
            middle["bare log"], at_least(0.5), samples=samples),
        _against_peers("batches-never-peers", what, middle, "no sync", at_least(1.0)),
    ]  # fmt: skip


def batches_always(run: Run) -> list[Row]:
    """Batches of 1,024, each synced, against the peers with a sync per batch."""
    samples = _batch_samples(run, data.batches(run.sizes.batches * data.BATCH), "always", {})
    row = _against_peers(
        "batches-always-peers",
        "apply in batches of 1,024, always",
        medians(samples),
        "a sync per batch",
        at_least(1.2),
        samples,
    )
    return [row]


def _against_peers(
    name: str,
    what: str,
    middle: dict[str, float],
    how: str,
    budget: Budget,
    samples: Samples | None = None,
) -> Row:
    peer, rate = best(middle, installed(stores.BESIDE))
    return Row(
        name, what, middle["fold"], "entries/s", f"{peer}, {how}", rate, budget,
        _peers_note(middle), absent=missing(stores.BESIDE), samples=samples or {},
    )  # fmt: skip


def _peers_note(middle: dict[str, float]) -> str:
    return ", ".join(f"{name} {middle[name]:,.0f}" for name in installed(stores.BESIDE))


def _batch_samples(
    run: Run,
    work: list[list[AnyUpdate]],
    durability: Durability,
    others: dict[str, Measurement],
) -> Samples:
    """Entries a second of the fold, of ``others`` and of every peer, from empty stores, in turn."""
    entries = sum(map(len, work))
    items = [[_item(put) for put in batch] for batch in work]

    def fold_load() -> float:
        with _fold(run, durability) as fold:
            return entries / seconds(lambda: _apply_all(fold, work))

    def peer_load(name: str) -> float:
        with _peer(run, name, synced=durability == "always") as peer:
            return entries / seconds(lambda: _each(peer.put_batch, items))

    measurements = {"fold": fold_load} | others
    measurements |= {name: _bound(peer_load, name) for name in installed(stores.BESIDE)}
    return in_turn(measurements, run.sizes.repetitions)


def _each(do: Callable[[T], None], batches: Sequence[T]) -> None:
    for batch in batches:
        do(batch)


def _apply_all(fold: holdfast.Fold, work: list[list[AnyUpdate]]) -> None:
    for number, batch in enumerate(work, 1):
        fold.apply(batch, holdfast.Cursor.from_u64(number))


def _item(put: AnyUpdate) -> stores.Item:
    assert isinstance(put, holdfast.Put)
    return put.key.encode(), put.value


# --- stores ------------------------------------------------------------------------------------


def _bound(load: Callable[[str], float], name: str) -> Measurement:
    return lambda: load(name)


@contextlib.contextmanager
def _fold(run: Run, durability: Durability) -> Iterator[holdfast.Fold]:
    """A new fold whose worker is up."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        fold = engine.fold("config", durability=durability)
        fold.get("")
        yield fold


@contextlib.contextmanager
def _peer(run: Run, name: str, *, synced: bool) -> Iterator[stores.Peer]:
    """A new store of a peer."""
    with run.fresh() as directory:
        peer = stores.BESIDE[name].make(directory, synced=synced)
        try:
            yield peer
        finally:
            peer.close()
