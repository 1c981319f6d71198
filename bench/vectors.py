"""Searching vectors: exactly, filtered, and with the index; one query, or a batch."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow.compute as pc

import holdfast
from holdfast.bench import vector_data
from holdfast.bench.callers import echoing
from holdfast.bench.measure import (
    Measurement,
    Row,
    Samples,
    at_least,
    at_most,
    in_turn,
    medians,
    seconds,
)
from holdfast.bench.peers import vector_kinds
from holdfast.bench.peers.kinds import installed, missing
from holdfast.bench.peers.nearest import FaissFlat, Found, Peer, Tunable
from holdfast.bench.peers.vector_kinds import Kinds
from holdfast.bench.run import Run
from holdfast.bench.vector_data import Floats, K, Sample

Search = Callable[[Floats], Found]

DIMENSION = 128
RECALL = 0.95
ECHOES = 2.5
_WIDE = 384
_BATCH = 100
_EXACT_QUERIES = 20
_FILLED_AT_ONCE = 10_000
_INDEX_WAIT_S = 600.0
BREADTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


# --- exact -------------------------------------------------------------------------------------


def exact(run: Run) -> list[Row]:
    """The 10 nearest by looking at every row, against numpy and faiss in this process."""
    count = run.sizes.vectors.rows
    return [
        *_exact(run, vector_data.clustered(count, DIMENSION, _BATCH), vector_kinds.EXACT),
        *_exact(run, vector_data.clustered(count, _WIDE, _BATCH), {}),
    ]


def _exact(run: Run, sample: Sample, others: Kinds) -> list[Row]:
    queries = sample.queries
    limits = vector_kinds.LIMITS
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(filled(run, sample))
        peers = stack.enter_context(_made(run, {**limits, **others}, sample.rows))
        found = store.query(queries, K, exact=True).ids
        assert vector_data.recall(found, vector_data.nearest(sample)) > 0.999, "it is not exact"
        searches: dict[str, Search] = {"engine": lambda q: store.query(q, K, exact=True).ids}
        searches |= {name: peer.search for name, peer in peers.items()}
        measurements = {
            name: _per_query(search, queries[:_EXACT_QUERIES], 1e3)
            for name, search in searches.items()
        }
        in_turn(measurements, 1)  # warm up
        samples = in_turn(measurements, run.sizes.vectors.repetitions)
        rows = [*_batches(run, sample, store, peers.get("faiss"))]
    middle = medians(samples)
    best = min((name for name in limits if name in middle), key=lambda name: middle[name])
    name, what = f"vectors-exact-{sample.dimension}", f"exact top {K} of {sample}"
    notes = [f"{peer} {middle[peer]:.2f} ms" for peer in limits if peer in middle]
    notes.append(missing(others))
    first = Row(name, f"{what}, one query", middle["engine"], "ms", f"{best} in this process",
                middle[best], at_most(1.5), "; ".join(filter(None, notes)), samples,
                absent=missing(limits))  # fmt: skip
    beside = [_beside(name, what, peer, middle, "ms") for peer in others if peer in middle]
    return [first, *rows, *beside]


def _batches(
    run: Run, sample: Sample, store: holdfast.Vectors, faiss: Peer | None
) -> Iterator[Row]:
    if not isinstance(faiss, FaissFlat):
        return
    queries = sample.queries[:_BATCH]
    measurements: dict[str, Measurement] = {
        "engine": lambda: len(queries) / seconds(lambda: store.query(queries, K, exact=True)),
        "faiss": lambda: len(queries) / seconds(lambda: faiss.search_many(queries)),
    }
    in_turn(measurements, 1)
    samples = in_turn(measurements, run.sizes.vectors.repetitions)
    middle = medians(samples)
    what = f"exact top {K} of {sample}, {len(queries)} queries at once"
    yield Row(f"vectors-exact-{sample.dimension}-batch", what, middle["engine"], "queries/s",
              "faiss IndexFlat, all threads", middle["faiss"], at_least(1.0),
              samples=samples)  # fmt: skip


# --- approximate -------------------------------------------------------------------------------


def approximate(run: Run) -> list[Row]:
    """The 10 nearest by the index at a recall of at least 0.95, against the library alone.

    A query has to get to the worker and back, which is what the echoes over a pipe stand for.
    """
    sizes = run.sizes.vectors
    if not vector_kinds.has_faiss():
        run.say("  faiss is not installed, so nothing is approximate")
        return []
    samples = (
        vector_data.clustered(sizes.rows, DIMENSION, sizes.queries),
        vector_data.gaussian(sizes.rows, DIMENSION, sizes.queries),
        vector_data.sources(sizes.source_rows, sizes.queries),
    )
    return [row for sample in samples for row in _approximate(run, sample)]


def _approximate(run: Run, sample: Sample) -> list[Row]:
    nearest = vector_data.nearest(sample)
    with contextlib.ExitStack() as stack:
        engine = _Engine(stack.enter_context(filled(run, sample, indexed=True)))
        kinds = vector_kinds.LIBRARY | vector_kinds.APPROXIMATE
        peers = stack.enter_context(_made(run, kinds, sample.rows))
        recalls = {"engine": recall_of(engine, sample, nearest)}
        if recalls["engine"] < RECALL:
            recalls["engine"] = tune(engine, sample, nearest)
        for name, peer in peers.items():
            if isinstance(peer, Tunable):
                recalls[name] = tune(peer, sample, nearest)
            else:
                recalls[name] = recall_of(peer, sample, nearest)
        measurements = {
            name: _per_query(peer.search, sample.queries, 1e6)
            for name, peer in {"engine": engine, **peers}.items()
        }
        measurements["echo"] = stack.enter_context(echoing(sample.queries[0].tobytes()))
        in_turn(measurements, 1)
        samples = in_turn(measurements, run.sizes.vectors.repetitions)
    return rows_of(sample, samples, recalls, engine.breadth)


def rows_of(
    sample: Sample, samples: Samples, recalls: Mapping[str, float], breadth: int | None
) -> list[Row]:
    """The engine's row, and its peers', from microseconds and recalls by name."""
    middle = medians(samples)
    name, what = f"vectors-approximate-{sample.name}", f"approximate top {K} of {sample}"
    (library,) = vector_kinds.LIBRARY
    notes = [
        f"ef {breadth or 'by default'}; {library} alone {middle[library]:.0f} us at recall "
        f"{recalls[library]:.3f}, an echo {middle['echo']:.0f} us",
        missing(vector_kinds.APPROXIMATE),
    ]
    return [
        Row(name, f"{what}, recall {recalls['engine']:.3f}", middle["engine"], "us",
            f"{library} in this process + {ECHOES} echoes",
            middle[library] + ECHOES * middle["echo"], at_most(1.0),
            "; ".join(filter(None, notes)), samples),
        *(
            _beside(name, f"{what}, recall {recalls[peer]:.3f}", peer, middle, "us")
            for peer in vector_kinds.APPROXIMATE if peer in middle
        ),
    ]  # fmt: skip


class _Engine:
    """A store's approximate search; ``breadth`` is the ``ef`` of its queries."""

    def __init__(self, store: holdfast.Vectors) -> None:
        self._store = store
        self.breadth: int | None = None

    def look_at(self, breadth: int) -> None:
        self.breadth = breadth

    def search(self, query: Floats) -> Found:
        return self._store.query(query, K, ef=self.breadth).ids


def recall_of(peer: Peer, sample: Sample, nearest: vector_data.Ids) -> float:
    """The share of what is ``nearest`` that a peer finds."""
    return vector_data.recall([peer.search(query) for query in sample.queries], nearest)


def tune(peer: Tunable, sample: Sample, nearest: vector_data.Ids) -> float:
    """Have an index look at as little as a recall of 0.95 takes, if it gets there; its recall."""
    recall = 0.0
    for breadth in BREADTHS:
        peer.look_at(breadth)
        recall = recall_of(peer, sample, nearest)
        if recall >= RECALL:
            break
    return recall


# --- filtered ----------------------------------------------------------------------------------


def filtered(run: Run) -> list[Row]:
    """The 10 nearest of the rows that a filter passes, exactly."""
    sizes = run.sizes.vectors
    sample = vector_data.clustered(sizes.rows, DIMENSION, _EXACT_QUERIES)
    numbers = np.random.default_rng(0).permutation(sizes.rows)
    rows = []
    with filled(run, sample, {"number": numbers}) as store:
        for percent, budget in ((1, 1.0), (10, 4.0)):
            samples = in_turn(_filters(run, sample, store, numbers, percent), sizes.repetitions)
            middle = medians(samples)
            what = f"exact top {K} of the {percent} % of {sample} that pass a filter"
            limit = ("the product with these rows in this process", middle["product"])
            rows += [
                Row(f"vectors-filter-{percent}", f"{what}, seen for the first time",
                    middle["new"], "ms", budget=at_most(budget), limit=limit, samples=samples),
                Row(f"vectors-filter-{percent}-again", f"{what}, seen before",
                    middle["again"], "ms", budget=at_most(budget), limit=limit),
            ]  # fmt: skip
    return rows


def _filters(
    run: Run, sample: Sample, store: holdfast.Vectors, numbers: vector_data.Numbers, percent: int
) -> dict[str, Measurement]:
    passing = len(numbers) * percent // 100
    # So many different constants that none of them comes again, all of about the same share.
    above = itertools.count(-_EXACT_QUERIES * run.sizes.vectors.repetitions // 2)
    number = pc.field("number")

    def search(query: Floats, below: int) -> Found:
        return store.query(query, K, where=number < below, exact=True).ids

    def product(query: Floats) -> Found:
        passed = np.flatnonzero(numbers < passing)
        rows = sample.rows[passed]
        return passed[np.argsort(np.einsum("ij,ij->i", rows, rows) - 2 * (rows @ query))[:K]]

    query = sample.queries[0]
    assert sorted(search(query, passing)) == sorted(product(query)), "it is not exact"
    searches: dict[str, Search] = {
        "new": lambda q: search(q, passing + next(above)),
        "again": lambda q: search(q, passing),
        "product": product,
    }
    return {name: _per_query(s, sample.queries, 1e3) for name, s in searches.items()}


# --- common ------------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(
    run: Run,
    sample: Sample,
    metadata: Mapping[str, vector_data.Numbers] | None = None,
    *,
    indexed: bool = False,
) -> Iterator[holdfast.Vectors]:
    """A new store of a sample's rows, with an index that is ready, or without one."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        store = engine.vectors(
            "rows", dimension=sample.dimension, metric=sample.metric, durability="never"
        )
        store.cancel_index()
        for start in range(0, len(sample.rows), _FILLED_AT_ONCE):
            stop = min(len(sample.rows), start + _FILLED_AT_ONCE)
            some = {name: values[start:stop] for name, values in (metadata or {}).items()}
            store.ingest(range(start, stop), sample.rows[start:stop], some or None)
        if indexed:
            store.build_index()
            wait_for_index(store)
        yield store


def wait_for_index(store: holdfast.Vectors) -> None:
    """Wait until the index is ready."""
    give_up = time.monotonic() + _INDEX_WAIT_S
    while store.status().index != "ready":
        if time.monotonic() > give_up:
            raise TimeoutError(f"no index of {store.path} after {_INDEX_WAIT_S:g} s")
        time.sleep(0.02)


@contextlib.contextmanager
def _made(run: Run, kinds: Kinds, rows: Floats) -> Iterator[dict[str, Peer]]:
    """The peers among ``kinds`` that are installed, with these rows in them."""
    with contextlib.ExitStack() as stack:
        yield {
            name: kinds[name].make(stack.enter_context(run.fresh()), rows)
            for name in installed(kinds)
        }


def _per_query(search: Search, queries: Floats, units: float) -> Measurement:
    """The mean time of a query, in so many units a second."""

    def measure() -> float:
        began = time.perf_counter()
        for query in queries:
            search(query)
        return (time.perf_counter() - began) / len(queries) * units

    return measure


def _beside(name: str, what: str, peer: str, middle: Mapping[str, float], unit: str) -> Row:
    """A peer's figure, as a multiple of the engine's."""
    slug = peer.lower().replace(" ", "-")
    return Row(
        f"{name}-{slug}", f"{what}: {peer}", middle[peer], unit, "the engine", middle["engine"]
    )
