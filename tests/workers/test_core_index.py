"""The built-in index against plain arithmetic: searches, filters, the graph, frozen rows."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.expression import encode_expression
from holdfast.formats.iqdb_values import (
    METRICS,
    HnswParameters,
    Id,
    Metric,
    Value,
    encode_metadata,
)
from holdfast.workers import faiss_library, hnsw_graph
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.index_search import measure
from holdfast.workers.index_table import IndexTable

Floats = NDArray[np.float32]
needs_faiss = pytest.mark.skipif(not faiss_library.available(), reason="needs holdfast[ann]")


def distance(x: Floats, y: Floats, metric: Metric) -> float:
    """One distance, as it is defined, in Python's floats."""
    a, b = [float(v) for v in x], [float(v) for v in y]
    if metric == "hamming":
        return float(sum(p != q for p, q in zip(x.view("<u4"), y.view("<u4"), strict=True)))
    if metric == "manhattan":
        return math.fsum(abs(p - q) for p, q in zip(a, b, strict=True))
    if metric == "euclidean":
        return math.dist(a, b)
    dot = math.fsum(p * q for p, q in zip(a, b, strict=True))
    if metric == "dot":
        return -dot
    root = math.sqrt(math.fsum(p * p for p in a)) * math.sqrt(math.fsum(q * q for q in b))
    return 1.0 if root <= float(np.finfo(np.float32).tiny) else 1 - dot / root


def index_of(vectors: Floats, metric: Metric, *, hnsw: HnswParameters | None = None) -> CoreIndex:
    """An index of these rows, ids counting up."""
    parameters = {} if hnsw is None else {"parameters": hnsw}
    index = CoreIndex(vectors.shape[1], metric, **parameters)
    index.put(list(range(len(vectors))), vectors, None)
    return index


def random_rows(count: int, dimension: int, seed: int = 0) -> Floats:
    """Rows of whole numbers, so that there are ties, and every sum is exact."""
    return np.random.default_rng(seed).integers(-4, 5, (count, dimension)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (50, 3), (700, 8), (3000, 70)])
def test_search_gives_what_sorting_all_distances_gives(
    metric: Metric, count: int, dimension: int
) -> None:
    """The nearest rows by distance, then by storage order, with distances to 1e-6."""
    rows = random_rows(count, dimension)
    index = index_of(rows, metric)
    for query in random_rows(3, dimension, seed=1) + np.float32(0.25):
        found = index.find(query[None], 10)
        told = measure(rows, query, metric)
        expected = np.lexsort((np.arange(count), told))[:10]
        assert found.ids[0] == expected.tolist()
        exact = [distance(rows[n], query, metric) for n in expected]
        assert found.distances[0] == pytest.approx(exact, rel=1e-6, abs=1e-6)
        assert not found.approximate


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_gives_what_each_query_gives_alone(metric: Metric) -> None:
    """Searching together changes nothing."""
    index = index_of(random_rows(500, 6), metric)
    queries = random_rows(7, 6, seed=2)
    together = index.find(queries, 5)
    for number, query in enumerate(queries):
        alone = index.find(query[None], 5)
        assert together.ids[number] == alone.ids[0]
        assert (together.distances[number] == alone.distances[0]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("exponent", [-15, -18, -20, -22, -25, -38])
def test_tiny_rows_are_told_apart(metric: Metric, exponent: int) -> None:
    """Rows whose squares float32 cannot hold are still ranked by their distances."""
    rows = np.random.default_rng(5).normal(size=(60, 2)).astype(np.float32)
    rows *= np.float32(10.0**exponent)
    index = index_of(rows, metric)
    found = index.find(rows, 3)
    for number, query in enumerate(rows):
        told = measure(rows, query, metric)
        order = np.lexsort((np.arange(60), ~np.signbit(told), told))[:3]
        assert found.ids[number] == order.tolist()
        assert (found.distances[number] == told[order]).all()


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e-19, 1e19, 3e38, -3e38, math.inf, -math.inf, math.nan]


@given(
    rows=st.lists(st.lists(st.sampled_from(SPECIAL), min_size=2, max_size=2), min_size=1),
    query=st.lists(st.sampled_from(SPECIAL[:9]), min_size=2, max_size=2),
    metric=st.sampled_from(METRICS),
)
def test_extreme_values_are_ordered_too(
    rows: list[list[float]], query: list[float], metric: Metric
) -> None:
    """Infinities, NaN last, tiny and huge values: the order is that of all distances, sorted."""
    vectors = np.array(rows, np.float32)
    asked = np.array(query, np.float32)
    found = index_of(vectors, metric).find(asked[None], 4)
    told = measure(vectors, asked, metric)

    def key(n: int) -> tuple[bool, float, bool, int]:
        value = float(told[n])
        nan = math.isnan(value)
        return nan, 0.0 if nan else value, math.copysign(1, value) > 0 and not nan, n

    assert found.ids[0] == sorted(range(len(rows)), key=key)[:4]


@pytest.mark.parametrize("graph", [False, pytest.param(True, marks=needs_faiss)])
@pytest.mark.parametrize("metric", METRICS)
def test_no_queries_find_nothing(
    metric: Metric, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty batch gives no hits, of as many columns as a query would have got."""
    monkeypatch.setattr(hnsw_graph, "INDEX_GRAPH_ROWS_MIN", 100)
    rows = random_rows(2000, 3)
    index = index_of(rows, metric, hnsw=HnswParameters() if graph else None)
    while index.optimize_step():
        pass
    for mask in (None, encode_expression(pc.field("x") == 1)):
        found = index.find(rows[:0], 7, where=mask)
        assert (found.ids, found.metadata) == ([], [])
        assert found.distances.shape == (0, 7 if mask is None else 0)


def test_nothing_asked_for_or_nothing_there_gives_nothing() -> None:
    """``k`` of 0, an empty index, and a filter that selects nothing give empty results."""
    empty = CoreIndex(3, "cosine")
    assert empty.find(np.ones((2, 3), np.float32), 5).ids == [[], []]
    some = index_of(random_rows(5, 3), "dot")
    assert some.find(np.ones((1, 3), np.float32), 0).ids == [[]]
    none = encode_expression(pc.field("absent") == 1)
    assert some.find(np.ones((1, 3), np.float32), 5, where=none).ids == [[]]


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["put", "remove", "search"]), st.integers(0, 12)), max_size=40
    ),
    metric=st.sampled_from(METRICS),
)
def test_searches_follow_the_rows(changes: list[tuple[str, int]], metric: Metric) -> None:
    """What is remembered of rows stays right while they come, change, move and go."""
    index = CoreIndex(3, metric)
    query = np.array([[1.25, -0.5, 2.0]], np.float32)
    for number, (kind, id_) in enumerate(changes):
        if kind == "put":
            index.put([id_], random_rows(1, 3, number), None)
        elif kind == "remove":
            index.remove([id_])
        else:
            vectors = index.table.vectors
            told = measure(vectors, query[0], metric)
            expected = np.lexsort((np.arange(len(told)), told))[:3]
            assert index.find(query, 3).ids[0] == [index.table.ids[n] for n in expected]


# --- filters ------------------------------------------------------------------------------------

METADATA: list[dict[str, Value] | None] = [
    None,
    {},
    {"n": 1, "s": "a"},
    {"n": 2, "s": "b", "f": 1.0},
    {"n": 1.0, "s": "é"},
    {"n": True, "t": False},
    {"n": None, "t": True},
    {"n": math.nan},
    {"n": -(1 << 63), "s": ""},
]
FIELD = pc.field("n")
FILTERS: dict[str, tuple[pc.Expression, Callable[[dict[str, Value]], bool]]] = {
    "int": (FIELD == 1, lambda m: type(m.get("n")) is int and m["n"] == 1),
    "float": (FIELD == 1.0, lambda m: type(m.get("n")) is float and m["n"] == 1.0),
    "other int": (FIELD != 1, lambda m: type(m.get("n")) is int and m["n"] != 1),
    "not int": (~(FIELD == 1), lambda m: not (type(m.get("n")) is int and m["n"] == 1)),
    "flipped": (pc.scalar(2) > FIELD, lambda m: type(m.get("n")) is int and m["n"] < 2),  # type: ignore[operator]
    "text": (pc.field("s") >= "b", lambda m: isinstance(m.get("s"), str) and m["s"] >= "b"),  # type: ignore[operator]
    "nan": (math.inf >= FIELD, lambda m: type(m.get("n")) is float and m["n"] <= math.inf),  # type: ignore[operator]
    "null": (pa.scalar(None) == FIELD, lambda m: "n" in m and m["n"] is None),
    "bool": (pc.field("t"), lambda m: m.get("t") is True),
    "bool order": (pc.field("t") < pc.scalar(True), lambda m: m.get("t") is False),
    "in": (FIELD.isin([2, 7]), lambda m: type(m.get("n")) is int and m["n"] in (2, 7)),
    "in nothing": (FIELD.isin(pa.array([], pa.int64())), lambda m: False),
    "and": (
        (FIELD == 1) & (pc.field("s") == "a"),
        lambda m: type(m.get("n")) is int and m["n"] == 1 and m.get("s") == "a",
    ),
    "or": (
        (FIELD == 2) | (pc.field("t") == True),  # noqa: E712  # an expression
        lambda m: (type(m.get("n")) is int and m["n"] == 2) or m.get("t") is True,
    ),
    "is null": (FIELD.is_null(), lambda m: m.get("n") is None),
    "is null or nan": (
        FIELD.is_null(nan_is_null=True),
        lambda m: m.get("n") is None or m["n"] != m["n"],
    ),
    "is valid": (FIELD.is_valid(), lambda m: m.get("n") is not None),
    "is not valid": (~pc.is_valid(FIELD), lambda m: m.get("n") is None),
    "null or less": (
        pc.is_null(FIELD) | (FIELD < 2),
        lambda m: m.get("n") is None or (type(m["n"]) is int and m["n"] < 2),
    ),
    "always": (pc.scalar(True), lambda m: True),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_select_what_the_family_says(name: str) -> None:
    """Types are never mixed, a missing field fails every comparison, and ``~`` turns that round."""
    expression, meant = FILTERS[name]
    index = CoreIndex(2, "euclidean")
    entries = [None if m is None else encode_metadata(m) for m in METADATA]
    index.put(list(range(len(METADATA))), np.zeros((len(METADATA), 2), np.float32), entries)
    where = encode_expression(expression)
    for _ in range(2):  # the second time from columns that are remembered
        found = index.find(np.zeros((1, 2), np.float32), 99, where=where).ids[0]
        assert found == [n for n, m in enumerate(METADATA) if meant(m or {})]


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["put", "remove"]), st.integers(0, 9), st.integers(0, 3)),
        max_size=40,
    )
)
def test_filters_follow_the_rows(changes: list[tuple[str, int, int]]) -> None:
    """Columns that were made for a filter stay right while rows come, change, move and go."""
    index = CoreIndex(2, "euclidean")
    held: dict[int, int] = {}
    where = encode_expression(pc.field("v") == 1)
    zero = np.zeros((1, 2), np.float32)
    for kind, id_, value in changes:
        index.find(zero, 1, where=where)
        if kind == "put":
            metadata: dict[str, Value] = {"v": value} if value else {}
            index.put([id_], zero, [encode_metadata(metadata)])
            held[id_] = value
        else:
            assert index.remove([id_]) == (id_ in held)
            held.pop(id_, None)
    found = index.find(zero, 99, where=where).ids[0]
    assert sorted(found) == sorted(id_ for id_, value in held.items() if value == 1)


@pytest.mark.parametrize(
    "expression",
    [
        FIELD + 1 == 2,
        pc.field("s").cast("int64") == 1,
        FIELD.is_nan(),
        pc.is_null(pc.scalar(1)),
        pc.field("a") == pc.field("b"),
        pa.scalar(b"bytes") == FIELD,
        pc.scalar(1),
        FIELD.isin(list(range(1025))),
    ],
    ids=str,
)
def test_filters_that_an_index_has_not_are_refused(expression: pc.Expression) -> None:
    """Whatever is no comparison of a field and a constant is named in the error."""
    index = index_of(random_rows(3, 2), "dot")
    with pytest.raises(InvalidArgument, match="where"):
        index.find(np.zeros((1, 2), np.float32), 1, where=encode_expression(expression))


@pytest.mark.parametrize("value", [1, 1.0, "yes"])
def test_a_field_that_is_not_bool_is_no_condition(value: Value) -> None:
    """It is refused with the value that is in the way, and once that is gone it is one."""
    index = CoreIndex(2, "euclidean")
    zero = np.zeros(2, np.float32)
    for id_, metadata in enumerate(({"a": True}, {"a": None}, {}, {"a": value})):
        index.insert(id_, zero, metadata)  # type: ignore[arg-type]  # each is metadata
    for expression in (pc.field("a"), ~pc.field("a"), pc.field("a") & (pc.field("b") == 1)):
        with pytest.raises(InvalidArgument, match=f"'a' by itself .* {value!r} in some row"):
            index.find(zero[None], 9, where=encode_expression(expression))
    assert index.find(zero[None], 9, where=encode_expression(pc.field("a") == True)).ids == [[0]]  # noqa: E712  # an expression
    index.delete(3)
    assert index.find(zero[None], 9, where=encode_expression(pc.field("a"))).ids == [[0]]


def test_deep_filters_are_refused() -> None:
    """64 levels of ``&``, ``|`` and ``~`` are taken, more are not."""
    index = index_of(random_rows(3, 2), "dot")
    expression = FIELD == 1
    for _ in range(64):
        expression = ~expression
    index.find(np.zeros((1, 2), np.float32), 1, where=encode_expression(expression))
    with pytest.raises(InvalidArgument, match="64"):
        index.find(np.zeros((1, 2), np.float32), 1, where=encode_expression(~expression))


# --- the graph ----------------------------------------------------------------------------------


@needs_faiss
@pytest.mark.parametrize("metric", [m for m in METRICS if m != "hamming"])
def test_the_graph_finds_most_of_the_nearest(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in the graph and pending ones together give nine in ten, at exact distances."""
    monkeypatch.setattr(hnsw_graph, "INDEX_GRAPH_ROWS_MIN", 100)
    rows = np.random.default_rng(3).normal(size=(3000, 16)).astype(np.float32)
    index = index_of(rows[:2500], metric, hnsw=HnswParameters(ef_search=128))
    while index.optimize_step():
        pass
    assert index.graph_rows == 2500
    index.put(list(range(2500, 3000)), rows[2500:], None)
    queries = np.random.default_rng(4).normal(size=(20, 16)).astype(np.float32)
    found, exact = index.find(queries, 10), index.find(queries, 10, exact=True)
    assert found.approximate
    assert not exact.approximate
    shared = sum(len({*a} & {*b}) for a, b in zip(found.ids, exact.ids, strict=True))
    assert shared >= 180
    for query, ids, told in zip(queries, found.ids, found.distances, strict=True):
        assert (measure(rows[np.array(ids, int)], query, metric) == told).all()
    index.check_invariants()


@needs_faiss
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["new", "put", "remove", "step", "step"]), st.integers(0, 60)),
        max_size=60,
    )
)
def test_the_graph_follows_the_rows(changes: list[tuple[str, int]]) -> None:
    """Whatever happens to the rows, each is in the graph or pending, and dead ones never show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hnsw_graph, "INDEX_GRAPH_ROWS_MIN", 2)
        patch.setattr(hnsw_graph, "_ROWS_PER_STEP", 5)
        index = index_of(random_rows(8, 2), "euclidean", hnsw=HnswParameters(m=4))
        fresh = 100
        for kind, id_ in changes:
            if kind == "new":
                index.put([fresh], random_rows(1, 2, fresh), None)
                fresh += 1
            elif kind == "put":
                index.put([id_], random_rows(1, 2, 1000 + id_), None)
            elif kind == "remove":
                index.remove([id_])
            else:
                index.optimize_step()
            index.check_invariants()
        found = index.find(np.zeros((1, 2), np.float32), 3).ids[0]
        assert len(found) == min(3, len(index))
        assert all(id_ in index for id_ in found)


@needs_faiss
def test_the_graph_keeps_to_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a filter, only rows that it selects are found, as many as were asked for."""
    monkeypatch.setattr(hnsw_graph, "INDEX_GRAPH_ROWS_MIN", 50)
    rows = np.random.default_rng(5).normal(size=(2000, 8)).astype(np.float32)
    index = CoreIndex(8, "euclidean", HnswParameters())
    entries: list[bytes | None] = [encode_metadata({"even": n % 2 == 0}) for n in range(2000)]
    index.put(list(range(2000)), rows, entries)
    while index.optimize_step():
        pass
    where = encode_expression(pc.field("even"))
    found = index.find(rows[:5], 10, where=where)
    assert found.approximate
    assert all(len(ids) == 10 for ids in found.ids)
    assert all(isinstance(id_, int) and id_ % 2 == 0 for ids in found.ids for id_ in ids)


def test_without_faiss_a_graph_is_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, an ``hnsw`` index answers all the same."""
    monkeypatch.setattr(faiss_library, "available", lambda: False)
    monkeypatch.setattr(hnsw_graph, "INDEX_GRAPH_ROWS_MIN", 10)
    rows = random_rows(200, 4)
    index = index_of(rows, "euclidean", hnsw=HnswParameters())
    assert not index.optimize_step()
    assert index.find(rows[:1], 3).ids == index_of(rows, "euclidean").find(rows[:1], 3).ids


# --- frozen rows --------------------------------------------------------------------------------


@given(
    data=st.data(),
    size=st.integers(0, 12),
    chunk=st.integers(1, 5),
)
def test_frozen_rows_do_not_change(data: st.DataObject, size: int, chunk: int) -> None:
    """Rows read in pieces are those of the moment they were frozen, whatever happens between."""
    table = IndexTable(1)
    vectors = np.arange(size, dtype=np.float32).reshape(size, 1)
    table.put([*range(size)], vectors, [b"%d" % n for n in range(size)])
    frozen = table.freeze()
    read: list[tuple[Id, float, bytes | None]] = []
    for ids, rows, metadata in frozen.chunks(chunk):
        read += zip(ids, rows[:, 0].tolist(), metadata, strict=True)
        for kind, id_ in data.draw(
            st.lists(st.tuples(st.sampled_from(["put", "remove"]), st.integers(0, 14)), max_size=5)
        ):
            if kind == "put":
                table.put([id_], np.full((1, 1), -1, np.float32), [b"new"])
            else:
                table.remove(id_)
        table.check_invariants()
    assert read == [(n, float(n), b"%d" % n) for n in range(size)]


class TestConsumedPayload:
    """Vectors that stay in the memory of the payload which they came in."""

    def rows(self, count: int, *, mixed: bool) -> CoreIndex:
        """Long rows, so that ids and metadata are a small part of the payload."""
        index = CoreIndex(64, "euclidean")
        ids: list[Id] = [b"id-%d" % n if mixed and n % 7 == 3 else n for n in range(count)]
        some = encode_metadata({"n": 1})
        entries = [some if mixed and n % 5 == 0 else None for n in range(count)]
        index.put(ids, random_rows(count, 64), entries)
        return index

    @pytest.mark.parametrize("mixed", [False, True])
    def test_the_rows_are_those_of_a_payload_that_is_kept(self, mixed: bool) -> None:
        """More of them than are read at once, of equal length and not."""
        index = self.rows(9000, mixed=mixed)
        payload = b"".join(bytes(piece) for piece in index.payload())
        own = bytearray(payload)
        loaded = CoreIndex.load(memoryview(own), consume=True)
        assert np.shares_memory(loaded.table.vectors, np.frombuffer(own, np.uint8))
        assert loaded.table.ids == index.table.ids
        assert loaded.table.metadata == index.table.metadata
        assert np.array_equal(loaded.table.vectors, index.table.vectors)
        loaded.check_invariants()
        kept = CoreIndex.load(memoryview(payload), consume=True)  # it cannot be written to
        assert np.array_equal(kept.table.vectors, index.table.vectors)

    def test_it_goes_on_as_any_other(self) -> None:
        """Rows are added beyond the memory, replaced and removed."""
        index = self.rows(300, mixed=False)
        own = bytearray(b"".join(bytes(piece) for piece in index.payload()))
        loaded = CoreIndex.load(memoryview(own), consume=True)
        for changed in (index, loaded):
            changed.put(list(range(290, 900)), random_rows(610, 64, 1), None)
            changed.remove([0, 5, 899])
        assert loaded.table.ids == index.table.ids
        assert np.array_equal(loaded.table.vectors, index.table.vectors)
        loaded.check_invariants()

    def test_memory_that_is_mostly_metadata_is_not_kept(self) -> None:
        """It would be there for as long as the index is."""
        index = CoreIndex(4)
        index.put([1, 2], random_rows(2, 4), [encode_metadata({"text": "x" * 1000}), None])
        own = bytearray(b"".join(bytes(piece) for piece in index.payload()))
        loaded = CoreIndex.load(memoryview(own), consume=True)
        assert not np.shares_memory(loaded.table.vectors, np.frombuffer(own, np.uint8))
        assert np.array_equal(loaded.table.vectors, index.table.vectors)


def test_a_batch_of_new_ids_that_come_twice() -> None:
    """The last one of each counts, in the place of the first."""
    index = CoreIndex(2)
    vectors = random_rows(4, 2)
    assert index.put([7, 8, 7, 9], vectors, None) == 1
    assert index.table.ids == [7, 8, 9]
    assert np.array_equal(index.table.vectors, vectors[[2, 1, 3]])
    index.check_invariants()
