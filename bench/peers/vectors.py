"""Vectors: the vector store and the index beside libraries in memory and other stores."""

import contextlib
import os
from collections.abc import Callable, Mapping

import numpy as np

from holdfast.bench import vector_data
from holdfast.bench.measure import Measurement, seconds
from holdfast.bench.peers import limits, nearest, own_vectors, saved, vector_kinds
from holdfast.bench.peers.contest import OURS, Contest, Work
from holdfast.bench.peers.key_value import READ, SYNCED, UNSYNCED
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.saved import Saved
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.peers.vector_stores import Store, fill
from holdfast.bench.run import Run
from holdfast.bench.vector_data import Floats, Ids, K, Sample
from holdfast.bench.vectors import RECALL, recall_of, tune

DIMENSION = 128
_BELOW = 10  # of the parts, so that a tenth of the rows passes
_BATCH = 1000
_ID_BYTES = 12 * K
_STORE = f"{OURS} vectors"
_PIPE = "a round trip of the query and the answer over a Pipe to another process"

Search = Callable[[Floats], nearest.Found]


def compare(contest: Contest, sizes: Sizes) -> None:
    """All rows of this area."""
    sample = vector_data.clustered(sizes.rows, DIMENSION, sizes.queries)
    _searches(contest, sizes, sample)
    for synced in (True, False):
        _ingest(contest, sizes, sample, synced=synced)
    _saves(contest, sizes, sample)


# --- searching ---------------------------------------------------------------------------------


def _searches(contest: Contest, sizes: Sizes, sample: Sample) -> None:
    with contextlib.ExitStack() as stack:
        own = _filled(contest, stack, own_vectors.UNSYNCED, sample)
        kinds = vector_kinds.LIMITS | vector_kinds.EXACT
        exact = {**own, **_made(contest, stack, kinds, sample)}
        _exact(contest, sizes, sample, exact)
        graphs = {
            **_filled(contest, stack, own_vectors.GRAPH, sample),
            **_made(contest, stack, vector_kinds.APPROXIMATE, sample),
        }
        _filter(contest, sizes, sample, exact | graphs)
        # The store is given its index only now, as it would be searched by it from then on.
        _approximate(
            contest,
            sizes,
            sample,
            {name: exact[name] for name in (_STORE,) if name in exact} | graphs,
        )


def _filled(
    contest: Contest, stack: contextlib.ExitStack, kinds: Mapping[str, Kind[Store]], sample: Sample
) -> dict[str, nearest.Peer]:
    def make(_: str, kind: Kind[Store]) -> Store:
        store = kind.make(stack.enter_context(contest.run.fresh()), sample.dimension)
        stack.callback(store.close)
        fill(store, sample.rows)
        return store

    stores: dict[str, Store] = contest.enter(kinds, make)
    return {**stores}


def _made(
    contest: Contest, stack: contextlib.ExitStack, kinds: vector_kinds.Kinds, sample: Sample
) -> dict[str, nearest.Peer]:
    return contest.enter(
        kinds,
        lambda _, kind: kind.make(stack.enter_context(contest.run.fresh()), sample.rows),
    )


def _exact(
    contest: Contest, sizes: Sizes, sample: Sample, peers: Mapping[str, nearest.Peer]
) -> None:
    truth = vector_data.nearest(sample)
    for name, peer in peers.items():
        with contest.excusing(name):
            assert recall_of(peer, sample, truth) > 0.999, "it is not exact"
    contest.compare(
        Work("exact", f"the {K} nearest of {sample}, exactly, one query", "query", READ,
             "BLAS sgemv with all rows"),
        {name: _per_query(peer.search, sample.queries) for name, peer in peers.items()},
        _per_query(lambda query: sample.rows @ query, sample.queries),
        sizes.repetitions,
    )  # fmt: skip


def _filter(
    contest: Contest, sizes: Sizes, sample: Sample, peers: Mapping[str, nearest.Peer]
) -> None:
    truth = nearest_below(sample, _BELOW)
    filtering = {n: peer for n, peer in peers.items() if isinstance(peer, nearest.Filtering)}
    recalls: dict[str, float] = {}
    for name, peer in filtering.items():
        with contest.excusing(name):
            found = [peer.search_below(query, _BELOW) for query in sample.queries]
            recalls[name] = vector_data.recall(found, truth)
    passing = sample.rows[np.arange(len(sample.rows)) % nearest.PARTS < _BELOW]
    contest.compare(
        Work("filtered", f"the {K} nearest of the tenth of {sample} that pass a filter", "query",
             READ, "BLAS sgemv with the rows that pass"),
        {
            name: _per_query(_below(peer), sample.queries)
            for name, peer in filtering.items() if name in recalls
        },
        _per_query(lambda query: passing @ query, sample.queries),
        sizes.repetitions,
        recalls=recalls,
    )  # fmt: skip


def nearest_below(sample: Sample, below: int) -> Ids:
    """The ids of the rows nearest to each query among those whose part is below this."""
    numbers = np.arange(len(sample.rows), dtype=np.uint64)
    passing = numbers[numbers % nearest.PARTS < below]
    part = Sample(sample.name, sample.rows[passing], sample.queries, sample.metric)
    return passing[vector_data.nearest(part)]


def _below(peer: nearest.Filtering) -> Search:
    return lambda query: peer.search_below(query, _BELOW)


def _approximate(
    contest: Contest, sizes: Sizes, sample: Sample, peers: Mapping[str, nearest.Peer]
) -> None:
    truth = vector_data.nearest(sample)
    recalls: dict[str, float] = {}
    for name, peer in peers.items():
        if name in contest.left_out:
            continue
        with contest.excusing(name):
            if isinstance(peer, nearest.Tunable):
                recalls[name] = tune(peer, sample, truth)
            else:
                recalls[name] = recall_of(peer, sample, truth)
    with limits.piped() as ask:
        query_bytes = 4 * sample.dimension
        contest.compare(
            Work("approximate", f"the {K} nearest of {sample}, by an index, one query", "query",
                 READ, _PIPE),
            {name: _per_query(peers[name].search, sample.queries) for name in recalls},
            limits.asked(ask, bytes(query_bytes), _ID_BYTES, sizes.queries),
            sizes.repetitions,
            recalls=recalls,
            note=f"tuned to look at no more than a recall of {RECALL} takes, where it can be tuned",
        )  # fmt: skip


def _per_query(search: Callable[[Floats], object], queries: Floats) -> Measurement:
    def measure() -> float:
        return seconds(lambda: [search(query) for query in queries]) / len(queries)

    return measure


# --- writing -----------------------------------------------------------------------------------


def _ingest(contest: Contest, sizes: Sizes, sample: Sample, *, synced: bool) -> None:
    rows = sample.rows[: sizes.ingested]
    own, others = (
        (own_vectors.SYNCED, vector_kinds.SYNCED)
        if synced
        else (own_vectors.UNSYNCED, vector_kinds.UNSYNCED)
    )
    kinds = {**own, **others}
    bodies = [rows[start : start + _BATCH].tobytes() for start in range(0, len(rows), _BATCH)]
    contest.compare(
        Work("ingest-synced" if synced else "ingest-unsynced",
             f"{len(rows):,} x {sample.dimension} with one field, in batches of {_BATCH:,}", "row",
             SYNCED if synced else UNSYNCED,
             f"{'append + fdatasync' if synced else 'append'} of the same bytes"),
        {name: _adding(contest.run, kinds[name], rows) for name in contest.entrants(kinds)},
        limits.appended(contest.run, bodies, len(rows), synced=synced),
        sizes.long_repetitions,
    )  # fmt: skip


def _adding(run: Run, kind: Kind[Store], rows: Floats) -> Measurement:
    def measure() -> float:
        with (
            run.fresh() as directory,
            contextlib.closing(kind.make(directory, rows.shape[1])) as store,
        ):
            store.add(len(rows), -rows[:1])  # what the first write makes ready
            took = seconds(lambda: fill(store, rows, _BATCH))
            assert store.search(rows[-1])[0] == len(rows) - 1, "the last row is not there"
        return took / len(rows)

    return measure


# --- whole files -------------------------------------------------------------------------------


def _saves(contest: Contest, sizes: Sizes, sample: Sample) -> None:
    rows = sample.rows
    kinds = saved.KINDS
    contest.compare(
        Work("save", f"{len(rows):,} x {sample.dimension} loaded at once, with one sync at the end",
             "row", "all synced when it is done: survives a power loss",
             "append + fdatasync of the same bytes"),
        {name: _saving(contest.run, kinds[name], rows) for name in contest.entrants(kinds)},
        limits.appended(contest.run, [rows.tobytes()], len(rows), synced=True),
        sizes.long_repetitions,
        note="faiss flat and holdfast index do not make a graph of the rows, the others do; "
        "holdfast vectors makes one later, in the background; what has an engine starts and ends "
        "its processes within this time",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        opened: dict[str, Measurement] = {}
        for name in contest.entrants(kinds):
            with contest.excusing(name):
                directory = stack.enter_context(contest.run.fresh())
                kinds[name].make(directory, rows.shape[1]).save(rows)
                opened[name] = _opening(kinds[name], directory, sample)
        content = os.path.join(stack.enter_context(contest.run.fresh()), "content")
        rows.tofile(content)
        contest.compare(
            Work("open", f"open a file of {len(rows):,} x {sample.dimension} and answer one query",
                 "opening", READ, "reading the same bytes from the page cache"),
            opened,
            lambda: seconds(lambda: np.fromfile(content, np.float32)),
            sizes.long_repetitions,
            note="what has an engine starts a supervisor and a worker process for it",
        )  # fmt: skip


def _saving(run: Run, kind: Kind[Saved], rows: Floats) -> Measurement:
    def measure() -> float:
        with run.fresh() as directory:
            kept = kind.make(directory, rows.shape[1])
            return seconds(lambda: kept.save(rows)) / len(rows)

    return measure


def _opening(kind: Kind[Saved], directory: str, sample: Sample) -> Measurement:
    def measure() -> float:
        found: list[nearest.Found] = []
        row = sample.rows[-1]
        kept = kind.make(directory, sample.dimension)
        took = seconds(lambda: found.append(kept.first_answer(row)))
        assert found[0][0] == len(sample.rows) - 1, "another row is nearest to it"
        kept.close()
        return took

    return measure
