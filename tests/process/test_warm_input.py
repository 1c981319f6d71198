"""Warm stores given all there is to give: every form of points, bad input, bad surroundings."""

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import holdfast
from holdfast import TemporalPoint
from holdfast.formats.points import ENTITY_MAX, SPACE_MAX, TIME_MAX, TIME_MIN
from tests.process.harness import is_alive, kill, worker_pid
from tests.process.test_bad_input import MIB, mounted, needs_mount, refused, remount

DIMENSION = 3
LIMIT, INVALID = holdfast.LimitExceeded, holdfast.InvalidArgument

ENTITIES = [5, ENTITY_MAX, 5, 0]
TIMES = [TIME_MAX, TIME_MIN, -1, 1_700_000_000_000_000]
VECTORS = np.arange(4 * DIMENSION, dtype=np.float32).reshape(4, DIMENSION) / 3
METADATA: list[dict[str, str] | None] = [{"b": "ü", "a": ""}, None, {}, {"key": "x" * 300}]
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), DIMENSION)
MAPS = pa.array(
    [None if row is None else list(row.items()) for row in METADATA], pa.map_(pa.utf8(), pa.utf8())
)
TABLE = pa.table(
    {
        "vector": FIXED,
        "timestamp": pa.array(TIMES, pa.int64()),
        "metadata": MAPS,
        "entity": pa.array(ENTITIES, pa.uint64()),
    }
)
EXPECTED = [
    (0, 0, TIMES[3], VECTORS[3].tolist(), {"key": "x" * 300}),
    (0, 5, -1, VECTORS[2].tolist(), {}),
    (0, 5, TIME_MAX, VECTORS[0].tolist(), {"a": "", "b": "ü"}),
    (0, ENTITY_MAX, TIME_MIN, VECTORS[1].tolist(), {}),
]


class Capsule:
    """A data frame of any library: all that is known of it is Arrow's stream."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def as_points() -> list[TemporalPoint]:
    """The points one by one."""
    return [
        TemporalPoint(entity, time, vector, row or {})
        for entity, time, vector, row in zip(ENTITIES, TIMES, VECTORS, METADATA, strict=True)
    ]


FORMS: dict[str, Callable[[], object]] = {
    "arrow table": lambda: TABLE,
    "arrow table in pieces": lambda: pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
    "record batch": lambda: TABLE.combine_chunks().to_batches()[0],
    "capsule": lambda: Capsule(TABLE),
    "capsule with an index": lambda: Capsule(
        TABLE.append_column("__index_level_0__", pa.array(range(4)))
    ),
    "numpy": lambda: {
        "entity": np.array(ENTITIES, np.uint64),
        "timestamp": np.array(TIMES),
        "vector": VECTORS.astype(np.float64),
        "metadata": METADATA,
    },
    "lists": lambda: {
        "entity": ENTITIES,
        "timestamp": TIMES,
        "vector": VECTORS.tolist(),
        "metadata": MAPS,
    },
    "strided numpy": lambda: {
        "entity": np.repeat(np.array(ENTITIES, np.uint64), 2)[::2],
        "timestamp": np.repeat(np.array(TIMES), 2)[::2],
        "vector": np.asfortranarray(VECTORS),
        "metadata": METADATA,
    },
    "points": as_points,
    "points as they come": lambda: iter(as_points()),
}


def rows_of(store: holdfast.Warm) -> list[tuple[int, int, int, list[float], dict[str, str]]]:
    """All points of a store."""
    rows = store.to_table().to_pylist()
    return [
        (r["space"], r["entity"], r["timestamp"], r["vector"], dict(r["metadata"])) for r in rows
    ]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[holdfast.Engine]:
    """An engine for all forms."""
    with holdfast.open(tmp_path_factory.mktemp("warm")) as engine:
        yield engine


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_points_gives_the_same(engine: holdfast.Engine, form: str) -> None:
    """Whatever the points come in, the store holds the same, flushed or not."""
    store = engine.warm(form.replace(" ", "-"), dimension=DIMENSION)
    done = store.write_batch(0, FORMS[form]())
    assert (done.points, done.replaced) == (4, 0)
    assert rows_of(store) == EXPECTED
    assert store.write_batch(0, FORMS[form]()).replaced == 4
    store.flush()
    assert rows_of(store) == EXPECTED
    for space, entity, time, vector, metadata in EXPECTED:
        found = store.get(entity, space, time)
        assert found is not None
        assert (found.entity, found.timestamp, found.vector.tolist()) == (entity, time, vector)
        assert found.metadata == metadata


def test_the_extremes_of_every_number(engine: holdfast.Engine) -> None:
    """The largest ids and the first and last moments are points like others."""
    store = engine.warm("extremes", dimension=1)
    store.write(ENTITY_MAX, SPACE_MAX, [TIME_MAX, TIME_MIN, 0], [[1], [2], [3]])
    for flushed in (False, True):
        assert store.range(ENTITY_MAX, SPACE_MAX)["vector"].to_pylist() == [[2], [3], [1]]
        back = store.range(ENTITY_MAX, SPACE_MAX, limit=2, reverse=True)
        assert back["timestamp"].to_pylist() == [TIME_MAX, 0]
        assert store.range(ENTITY_MAX, SPACE_MAX, TIME_MAX, TIME_MIN).num_rows == 0
        latest = store.latest(ENTITY_MAX, SPACE_MAX, TIME_MAX - 1)
        assert latest is not None
        assert latest.timestamp == 0
        assert store.latest(ENTITY_MAX, SPACE_MAX - 1) is None
        if not flushed:
            store.flush()
    assert store.retain(TIME_MIN) == 0
    assert store.retain(TIME_MAX) == 2
    assert store.delete(ENTITY_MAX, SPACE_MAX, TIME_MAX) == 1
    assert not len(store)
    assert store.to_table().num_rows == 0


# --- bad input ---------------------------------------------------------------------------------


def zeros(rows: int = 1, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """So many vectors."""
    return np.zeros((rows, dimension), np.float32)


def columns(**changed: object) -> dict[str, object]:
    """Columns of one point, some of them changed or, where None, left out."""
    good: dict[str, object] = {"entity": [1], "timestamp": [1], "vector": zeros(), "metadata": None}
    return {name: value for name, value in (good | changed).items() if value is not None}


DOUBLE = pa.Table.from_arrays([TABLE["entity"], *TABLE.columns], ["entity", *TABLE.schema.names])
NAN = np.array([[0, np.nan, 0]], np.float32)
Case = tuple[Callable[[holdfast.Warm], object], type[Exception], str]
BAD: list[Case] = [
    (lambda s: s.write(1, 0, [1], zeros(1, 2)), INVALID, "2 numbers, expected 3"),
    (lambda s: s.write(1, 0, [1], zeros()[0]), INVALID, r"write \[vector\]"),
    (lambda s: s.write(1, 0, [1, 2], zeros()), INVALID, "2 timestamps for 1 vectors"),
    (lambda s: s.write(1, 0, [1], zeros(2)), INVALID, "1 timestamps for 2 vectors"),
    (lambda s: s.write(1, 0, [1], zeros(), [{}, {}]), INVALID, "2 rows for 1 points"),
    (lambda s: s.write(1, 0, [1 << 63], zeros()), LIMIT, "9223372036854775808"),
    (lambda s: s.write(1, 0, [-(1 << 63) - 1], zeros()), LIMIT, "-9223372036854775809"),
    (lambda s: s.write(1, 0, np.array([1 << 63], np.uint64), zeros()), LIMIT, "922337203685477"),
    (lambda s: s.write(1, 0, [1.0], zeros()), INVALID, r"1\.0"),
    (lambda s: s.write(1, 0, np.array([1.5]), zeros()), INVALID, r"1\.5"),
    (lambda s: s.write(1, 0, [True], zeros()), INVALID, "True|bool"),
    (lambda s: s.write(1, 0, np.array([True]), zeros()), INVALID, "bool"),
    (lambda s: s.write(1, 0, ["1"], zeros()), INVALID, "'1'"),
    (lambda s: s.write(1, 0, [None], zeros()), INVALID, "None"),
    (lambda s: s.write(1, 0, pa.array([None], pa.int64()), zeros()), INVALID, "None"),
    (lambda s: s.write(1, 0, 1, zeros()), INVALID, r"\[1\]"),
    (lambda s: s.write(1.0, 0, [1], zeros()), INVALID, r"entity.*1\.0 \(float\)"),  # type: ignore[arg-type]
    (lambda s: s.write(True, 0, [1], zeros()), INVALID, "entity.*bool"),
    (lambda s: s.write("1", 0, [1], zeros()), INVALID, "entity.*'1'"),  # type: ignore[arg-type]
    (lambda s: s.write(-1, 0, [1], zeros()), LIMIT, "entity -1"),
    (lambda s: s.write(1 << 64, 0, [1], zeros()), LIMIT, "entity 18446744073709551616"),
    (lambda s: s.write(1, -1, [1], zeros()), LIMIT, "space -1"),
    (lambda s: s.write(1, 1 << 32, [1], zeros()), LIMIT, "space 4294967296"),
    (lambda s: s.write(1, 0.0, [1], zeros()), INVALID, r"space.*0\.0"),  # type: ignore[arg-type]
    (lambda s: s.write(1, 0, [1], NAN), INVALID, "row 0: a value is not finite"),
    (lambda s: s.write(1, 0, [1], np.full((1, 3), -np.inf)), INVALID, "not finite"),
    (lambda s: s.write(1, 0, [1], np.full((1, 3), 1e300)), INVALID, "not finite"),
    (lambda s: s.write(1, 0, [1], NAN, non_finite="maybe"), INVALID, "'maybe'"),  # type: ignore[arg-type]
    (lambda s: s.write(1, 0, range(99), np.repeat(NAN, 99, 0)), INVALID, "row 0"),
    (lambda s: s.write(1, 0, [1], [["a", "b", "c"]]), INVALID, "vector"),
    (lambda s: s.write(1, 0, [1], zeros(), [{"a": 1}]), INVALID, r"'a' is 1 \(int\)"),
    (lambda s: s.write(1, 0, [1], zeros(), [{1: "a"}]), INVALID, "key 1"),
    (lambda s: s.write(1, 0, [1], zeros(), ["a"]), INVALID, "str"),
    (lambda s: s.write(1, 0, [1], zeros(), [{"a": None}]), INVALID, "'a' is None"),
    (lambda s: s.write(1, 0, [1], zeros(), [{"a": "\ud800"}]), INVALID, "metadata"),
    (lambda s: s.write(1, 0, [1], zeros(), pa.array(["a"])), INVALID, "string"),
    (lambda s: s.write_batch(0, columns(note=[1])), INVALID, "'note'"),
    (lambda s: s.write_batch(0, columns(space=[1])), INVALID, "'space'"),
    (lambda s: s.write_batch(0, columns(entity=None)), INVALID, "'entity'"),
    (lambda s: s.write_batch(0, columns(vector=None)), INVALID, "'vector'"),
    (lambda s: s.write_batch(0, columns(entity=[1, 2])), INVALID, "2 entities for 1 timestamps"),
    (lambda s: s.write_batch(0, columns(entity=[1.5])), INVALID, r"1\.5"),
    (lambda s: s.write_batch(0, columns(entity=[-1])), LIMIT, "-1"),
    (lambda s: s.write_batch(0, DOUBLE), INVALID, "same name"),
    (lambda s: s.write_batch(0, TABLE.append_column("x", TABLE["entity"])), INVALID, "'x'"),
    (lambda s: s.write_batch(0, TABLE.drop_columns(["timestamp"])), INVALID, "'timestamp'"),
    (lambda s: s.write_batch(0, "points"), INVALID, "str"),
    (lambda s: s.write_batch(0, 7), INVALID, "int"),
    (lambda s: s.write_batch(0, [1]), INVALID, "point 0.*int"),
    (lambda s: s.write_batch(0, [*as_points(), TemporalPoint(1, 1, zeros(1, 9)[0])]), INVALID, "9"),
    (lambda s: s.put(0, (1, 1, zeros()[0])), INVALID, "tuple"),  # type: ignore[arg-type]
    (lambda s: s.put(0, TemporalPoint(1, 1.5, zeros()[0])), INVALID, r"1\.5"),  # type: ignore[arg-type]
    (lambda s: s.delete(1, 0, [1.5]), INVALID, r"1\.5"),
    (lambda s: s.delete(1, 0, True), INVALID, "bool|True|timestamps"),
    (lambda s: s.delete_range(1, 0, 0, 1 << 63), LIMIT, "end 9223372036854775808"),
    (lambda s: s.retain(0.5), INVALID, r"before.*0\.5"),  # type: ignore[arg-type]
    (lambda s: s.get(1, 0, 1.0), INVALID, r"timestamp.*1\.0"),  # type: ignore[arg-type]
    (lambda s: s.latest(1, 0, at=1 << 63), LIMIT, "at 9223372036854775808"),
    (lambda s: s.range(1, 0, start=-(1 << 64)), LIMIT, "start -18446744073709551616"),
    (lambda s: s.range(1, 0, limit=-1), INVALID, "limit"),
    (lambda s: s.range(1, 0, reverse=1), INVALID, "reverse"),  # type: ignore[arg-type]
    (lambda s: s.range(1, 0, columns=["entity"]), INVALID, "'entity'"),
    (lambda s: s.range(1, 0, columns="vector"), INVALID, "'vector'"),
    (lambda s: s.range(1, 0, columns=["vector", "vector"]), INVALID, "different"),
    (lambda s: s.range(1, 0, columns=[]), INVALID, "columns"),
    (lambda s: s.range_many([1, -1], 0), LIMIT, "-1"),
    (lambda s: list(s.scan(batch_rows=0)), INVALID, "batch_rows"),
    (lambda s: s.to_table(columns=["x"]), INVALID, "'x'"),
    (lambda s: s.nearest(zeros(1, 2)[0]), INVALID, "2 numbers, expected 3"),
    (lambda s: s.nearest(zeros(2)), INVALID, "one vector"),
    (lambda s: s.nearest(NAN[0]), INVALID, "not finite"),
    (lambda s: s.nearest(zeros()[0], k=0), INVALID, "k"),
    (lambda s: s.nearest(zeros()[0], metric="l1"), INVALID, "'l1'"),  # type: ignore[arg-type]
    (lambda s: s.series(-1), LIMIT, "space -1"),
]


def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    """Each gets an error that names the value; log and chunks stay as they were, byte for byte."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        store.write_batch(0, TABLE)
        store.flush()
        store.write_batch(0, TABLE.slice(0, 2))
        before = contents(store)
        for number, (call, error, complaint) in enumerate(BAD):
            with pytest.raises(error, match=complaint) as caught:
                call(store)
            assert type(caught.value) is error, (number, caught.value)
        assert store.write(1, 0, [], zeros(0)).points == 0
        assert store.write_batch(0, []).points == 0
        assert store.delete(1, 0, []) == 0
        assert store.range_many([], 0).num_rows == 0
        assert contents(store) == before
        assert rows_of(store) == EXPECTED


def contents(store: holdfast.Warm) -> dict[str, bytes]:
    """Every file of a store but the ledger."""
    files = Path(store.path).iterdir()
    return {path.name: path.read_bytes() for path in files if path.suffix != ".ledger"}


def test_what_is_not_finite_is_taken_if_asked_for(tmp_path: Path) -> None:
    """NaN and infinities come back bit for bit."""
    given = np.array([[np.nan, np.inf, -np.inf], [0.0, -0.0, 3.0]], np.float32)
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        store.write(1, 0, [1, 2], given, non_finite="accept")
        for _ in range(2):
            found = store.range(1, 0)["vector"].combine_chunks().flatten().to_numpy()
            assert found.tobytes() == given.tobytes()
            store.flush()


def test_options_are_kept_and_compared(tmp_path: Path) -> None:
    """Dimension and compression are in the store; others are a conflict, and none is a lack."""
    with holdfast.open(tmp_path) as engine:
        refused(lambda: engine.warm("w"), match="needs its dimension")
        refused(lambda: engine.warm("w", dimension=0), LIMIT, "dimension 0")
        refused(lambda: engine.warm("w", dimension=65_536), LIMIT, "dimension 65536")
        refused(lambda: engine.warm("w", dimension=2.0), match=r"2\.0")  # type: ignore[arg-type]
        refused(lambda: engine.warm("w", dimension=2, compression="gzip"), match="'gzip'")  # type: ignore[arg-type]
        missing = holdfast.StoreNotFound
        refused(lambda: engine.warm("w", dimension=2, create=False), missing, r"w\.warm")
        assert not (tmp_path / "w.warm").exists()
        engine.warm("w", dimension=2, compression="zstd")
        conflict = holdfast.OptionsConflict
        refused(lambda: engine.warm("w", dimension=3), conflict, "dimension=2, not 3")
    with holdfast.open(tmp_path) as engine:
        refused(lambda: engine.warm("w", compression="lz4"), conflict, "'zstd', not 'lz4'")
        refused(lambda: engine.fold("w"), holdfast.WrongKind, "warm")
        store = engine.warm("w")
        assert (store.dimension, store.compression) == (2, "zstd")


def test_what_is_no_warm_store_is_refused(tmp_path: Path) -> None:
    """A file, a directory of something else: named, and not touched."""
    (tmp_path / "a.warm").write_bytes(b"a file")
    (tmp_path / "b.warm").mkdir()
    (tmp_path / "b.warm" / "photo.jpg").write_bytes(b"jpeg")
    (tmp_path / "c.warm" / "entity_1").mkdir(parents=True)
    with holdfast.open(tmp_path) as engine:
        refused(lambda: engine.warm("a", dimension=2), match="not a directory")
        for name, complaint in {"b": r"photo\.jpg", "c": "import_chronos"}.items():
            refused(
                lambda name=name: engine.warm(name, dimension=2),  # type: ignore[misc] # a lambda's default
                holdfast.InvalidFormat,
                complaint,
            )
        assert engine.warm("d", dimension=2).count() == 0, "the engine goes on"
    assert (tmp_path / "a.warm").read_bytes() == b"a file"
    assert [path.name for path in (tmp_path / "b.warm").iterdir()] == ["photo.jpg"]
    assert [path.name for path in (tmp_path / "c.warm").iterdir()] == ["entity_1"]


# --- bad surroundings --------------------------------------------------------------------------


@needs_mount
def test_a_read_only_directory_cannot_be_opened(tmp_path: Path) -> None:
    """Neither used nor fresh; what was there can be read when it can be written again."""
    with mounted(tmp_path / "m") as path, holdfast.open(tmp_path / "data") as engine:
        engine.warm("w", dimension=DIMENSION, path=path / "w.warm").write_batch(0, TABLE)
        engine.close()
        remount(path, "ro")
        with holdfast.open(tmp_path / "other") as other:
            for name in ("w.warm", "fresh.warm"):
                refused(
                    lambda n=name: other.warm(n[:-5], dimension=DIMENSION, path=path / n),  # type: ignore[misc] # a lambda's default
                    holdfast.StoreReadOnly,
                    "EROFS",
                )
            remount(path, "rw")
            assert rows_of(other.warm("w", path=path / "w.warm")) == EXPECTED


ROWS = 2000
WIDE = 16


def fill(store: holdfast.Warm, start: int = 0) -> int:
    """Write batches until the disk is full; the number of the one that failed."""
    for number in range(start, start + 10_000):
        rows = np.full((ROWS, WIDE), number, np.float32)
        try:
            store.write(number % 5, 0, np.arange(ROWS) + number * ROWS, rows)
        except holdfast.StoreFull as error:
            failure = error
            break
    else:
        pytest.fail("it never got full")
    assert failure.path is not None
    assert failure.path.startswith(store.path)
    return number


def check_whole(store: holdfast.Warm, count: int) -> None:
    """Everything acknowledged is there, and nothing that was refused."""
    assert len(store) == count * ROWS
    for number in range(count):
        table = store.range(number % 5, 0, number * ROWS, number * ROWS + ROWS - 1)
        assert table.num_rows == ROWS
        found = pa.compute.list_flatten(table["vector"].combine_chunks()).to_numpy()
        assert (found == number).all()


@needs_mount
def test_a_full_disk(tmp_path: Path) -> None:
    """A write, a flush and a compaction that do not fit are refused whole; reads go on.

    So it is after a crash, and room brings service back.
    """
    with (
        mounted(tmp_path / "m", "-o", "size=6m") as path,
        holdfast.open(tmp_path / "data") as engine,
    ):
        store = engine.warm("w", dimension=WIDE, path=path / "w.warm")
        worker = worker_pid(engine, "w")
        ballast = path / "ballast"
        ballast.write_bytes(bytes(2 * MIB))
        count = fill(store, 0)
        assert count > 5
        for work in (store.flush, store.compact):
            refused(work, holdfast.StoreFull)
        check_whole(store, count)
        assert worker_pid(engine, "w") == worker, "the same worker all along"
        kill(worker)
        check_whole(store, count)
        assert fill(store, count) == count
        ballast.unlink()
        store.write(count % 5, 0, np.arange(ROWS) + count * ROWS, np.full((ROWS, WIDE), count))
        check_whole(store, count + 1)
        assert store.verify().flaws == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As a full disk, by another reason of the system's; a flush makes room in the log."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=WIDE)
        worker = worker_pid(engine, "w")
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (4 * MIB, unlimited))
        count = fill(store)
        assert count > 10
        refused(store.flush, holdfast.StoreFull)
        check_whole(store, count)
        assert is_alive(worker)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (8 * MIB, unlimited))
        store.flush()
        more = fill(store, count)
        assert more > count
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        store.compact()
        check_whole(store, more)
        assert worker_pid(engine, "w") == worker, "the same worker all along"
