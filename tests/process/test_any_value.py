"""Every argument of every public method given values that it is not meant for."""

import datetime
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast import Cursor, Put, SchemaFingerprint, TemporalPoint, Version

HANDLES = (
    holdfast.Fold, holdfast.Vectors, holdfast.Warm, holdfast.Index, holdfast.Registry,
    holdfast.PersistedIndex,
)  # fmt: skip
FIELDS = [("name", "Name"), ("born", "Date")]
FINGERPRINT = SchemaFingerprint.from_schema(FIELDS, created_at=1)
MODEL = holdfast.ModelArtifact(
    FINGERPRINT, [[0.1, 0.9]] * 2, [[0.9, 0.1]] * 2, -2.0, 0.9, 0.1, "tag", trained_on=1
)
ONE = np.ones(2, np.float32)

USUAL: dict[str, object] = {
    "at": 5, "before": -5, "directory": "elsewhere", "end": 5, "entities": [1], "entity": 1,
    "fingerprint": FINGERPRINT, "format": "arrow", "id": 7, "ids": [1, 2], "key": "k",
    "keys": ["k"], "kind": "half", "name": "child", "point": TemporalPoint(1, 5, ONE),
    "points": [TemporalPoint(1, 5, ONE)], "schema_hash": bytes(32), "space": 0, "source": "absent",
    "start": 0, "timestamp": 5, "timestamps": [5], "vector": ONE, "artifact": MODEL,
    "artifacts": [MODEL], "updates": [Put("k", b"v")], "cursor": Cursor.none(),
    "kernel": holdfast.Kernel(b"image", 0, 0), "program": holdfast.Ebpf(b"program.", 0, 0, 0),
    "module": holdfast.Wasm(b"module", 0, 0, 0, 0), "dashboard": holdfast.Dashboard(b"a", 0, 0),
    "where": pc.field("n") > 0,
}  # fmt: skip
"""What an argument of this name is meant to be."""
OTHERWISE: dict[tuple[str, str], object] = {
    ("ingest", "vectors"): [ONE, ONE],
    ("write", "vectors"): [ONE],
    ("query", "vectors"): ONE,
    ("search", "vectors"): ONE,
    ("insert_batch", "vectors"): [ONE, ONE],
    ("upsert_batch", "vectors"): [ONE, ONE],
    ("diff", "other"): None,
}
"""Where that depends on the method."""


class Refusing:
    """An object that has nothing, not even a description."""

    def __repr__(self) -> str:
        return "<refusing>"


PLAIN: dict[str, object] = {
    "None": None, "True": True, "minus one": -1, "zero": 0, "2**40": 1 << 40, "2**70": 1 << 70,
    "minus 2**70": -(1 << 70), "half": 1.5, "NaN": float("nan"), "infinity": float("inf"),
    "text": "x", "no text": "", "surrogate": "\ud800", "NUL": "a\0b", "long text": "x" * 70_000,
    "bytes": b"x", "list": [], "list of None": [None], "lists": [[]], "ragged": [[1.0], [1.0, 2.0]],
    "huge number": [[1e300, 0.0]], "pair": [("a", 1)], "dict": {}, "set": {1},
    "dict of anything": {"a": Refusing()}, "dict of a number": {1: "a"}, "object": Refusing(),
    "column": {"vector": [1, 2]}, "class": type, "function": lambda *_: None, "path": Path("x"),
    "numpy int": np.int64(1), "numpy bool": np.bool_(True), "numpy float": np.float64(0.5),
    "numpy text": np.array(["x"]), "matrices": np.zeros((2, 2, 2)), "NaT": np.datetime64("NaT"),
    "duration": np.timedelta64(1, "s"), "arrow": pa.array(["x", None]),
    "table": pa.table({"id": [1]}), "day": datetime.date(2024, 1, 1),
    "time of no zone": datetime.datetime(2024, 1, 1), "expression": pc.field("a"),
    "constant": pc.scalar(1),
}  # fmt: skip


def ours() -> dict[str, object]:
    """Values of our own types, made of what their constructors do not look at."""
    any_: Any = holdfast  # the types forbid all of these
    return {
        "version of a number": any_.Version(5),
        "version of text": any_.Version("x"),
        "cursor of a number": any_.Cursor(5),
        "cursor of text": any_.Cursor("x"),
        "put of a number": [any_.Put(5, b"")],
        "put of None": [any_.Put("k", None)],
        "put of a bad version": [any_.Put("k", b"", Version(5))],  # type: ignore[arg-type]
        "put of text for a version": [any_.Put("k", b"", "7")],
        "update": [any_.Update("k")],
        "kernel of text": any_.Kernel("img", 1, 1),
        "kernel for text": any_.Kernel(b"", "x", 1),
        "kernel of a surrogate": any_.Kernel(b"", 1, 1, cmdline="\ud800"),
        "kernel bound to text": any_.Kernel(b"", 1, 1, binding="x"),
        "kernel of large numbers": any_.Kernel(b"", 1 << 70, -1),
        "kernel for another": any_.Kernel(b"", True, np.bool_(True)),
        "ebpf of None": any_.Ebpf(None, 1, 1, 1),
        "wasm of None": any_.Wasm(None, 1, 1, 1, 1),
        "dashboard of None": any_.Dashboard(b"", 1, None),
        "point of nothing": any_.TemporalPoint(None, 1, []),
        "points of metadata": [any_.TemporalPoint(1, 1, ONE, 5)],
    }


VALUES = PLAIN | ours()

LEFT_OUT = {"close", "freeze", "open", "open_with", "load"}
"""They would end what the others are tried on; the openings are tried below."""


def operations(face: type) -> list[str]:
    """The public methods of a handle."""
    return [
        name
        for name in dir(face)
        if not name.startswith("_") and name not in LEFT_OUT and callable(getattr(face, name))
    ]


CALLS = [(face.__name__, name) for face in HANDLES for name in operations(face)]


@pytest.fixture(scope="module")
def handles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One handle of each kind, by the name of its class; the files the calls make go elsewhere."""
    place = tmp_path_factory.mktemp("values")
    with pytest.MonkeyPatch.context() as patch, holdfast.open(place / "data") as engine:
        (place / "here").mkdir()
        patch.chdir(place / "here")
        vectors = engine.vectors("v", dimension=2)
        vectors.ingest([1, 2], [ONE, ONE], {"n": [1, 2]})
        opened = holdfast.PersistedIndex.open(place / "p.iqdb", dimension=2)
        with opened:
            yield {
                "Fold": engine.fold("f"),
                "Vectors": vectors,
                "Warm": engine.warm("w", dimension=2),
                "Index": engine.index("i", dimension=2),
                "Registry": engine.registry("r"),
                "PersistedIndex": opened,
            }


def complaint(call: Callable[[], object]) -> str | None:
    """What is wrong with how a call ends: neither success nor an error of ours for the caller."""
    try:
        found = call()
        if isinstance(found, Iterator):
            list(found)
        elif isinstance(found, holdfast.Engine | holdfast.PersistedIndex):
            found.close()
    except (holdfast.InternalError, holdfast.WorkerCrashed, holdfast.CallTimeout) as error:
        return repr(error)
    except holdfast.HoldfastError as error:
        inside = ("malformed", "cannot send", "at `$")
        return repr(error) if any(text in str(error) for text in inside) else None
    except Exception as error:
        return repr(error)
    return None


def complaints(operation: Callable[..., object], usual: dict[str, object]) -> dict[str, str]:
    """What is wrong with calls in which one argument is something else."""
    found = {
        f"{name}={kind}": complaint(lambda given={**usual, name: value}: operation(**given))  # type: ignore[misc]
        for name in inspect.signature(operation).parameters
        for kind, value in VALUES.items()
    }
    return {what: said for what, said in found.items() if said is not None}


@pytest.mark.parametrize(("face", "method"), CALLS, ids=lambda name: str(name))
def test_no_value_gets_an_untyped_error(handles: dict[str, Any], face: str, method: str) -> None:
    """Whatever an argument is given, the call succeeds or raises an error of ours that says why."""
    handle = handles[face]
    operation = getattr(handle, method)
    parameters = inspect.signature(operation).parameters
    usual = {
        name: OTHERWISE.get((method, name), USUAL.get(name))
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    if method == "diff":
        usual["other"] = handle
    assert complaint(lambda: operation(**usual)) is None
    assert complaints(operation, usual) == {}


OPENERS = ("fold", "import_fold", "vectors", "warm", "index", "registry")
ENGINE_CALLS = (*OPENERS, "drop", "health", "processes", "restart", "status")


@pytest.mark.parametrize("method", ENGINE_CALLS)
def test_no_value_gets_an_untyped_error_of_an_engine(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above; what is opened with an argument that happens to be one is opened."""
    monkeypatch.chdir(tmp_path)
    usual: dict[str, object] = {} if method in ("health", "processes") else {"name": "a"}
    if method == "import_fold":
        usual["directory"] = "absent"
    with holdfast.open(tmp_path / "data") as engine:
        assert complaints(getattr(engine, method), usual) == {}


MAKERS: dict[Callable[..., object], dict[str, object]] = {
    holdfast.open: {"directory": "there"},
    holdfast.aio.open: {"directory": "there"},
    holdfast.PersistedIndex.open: {"path": "x.iqdb"},
    holdfast.PersistedIndex.read_header: {"path": "x.iqdb"},
    SchemaFingerprint.from_schema: {"fields": FIELDS},
    SchemaFingerprint.from_sample: {"fields": FIELDS, "records": [{"name": "a"}]},
    Version.from_u64: {"number": 1},
    Cursor.from_bytes: {"token": b"x"},
    TemporalPoint: {"entity": 1, "timestamp": 1, "vector": [1.0]},
}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__qualname__)
def test_no_value_gets_an_untyped_error_of_what_makes_something(
    maker: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, of what is called without a handle."""
    monkeypatch.chdir(tmp_path)
    with holdfast.open("there"):  # so that the others join
        assert complaints(maker, MAKERS[maker]) == {}


SAID: list[tuple[str, Callable[[Any], object], str]] = [
    ("Fold", lambda s: s.apply([], Cursor(5)), "cursor is made of bytes, not int: 5"),  # type: ignore[arg-type]
    ("Fold", lambda s: s.apply([], Cursor("x")), "cursor is made of bytes, not str: 'x'"),  # type: ignore[arg-type]
    (
        "Fold",
        lambda s: s.apply([Put("a", b""), Put("k", b"", Version(5))], Cursor.none()),  # type: ignore[arg-type]
        r"updates\[1\]\.version is made of bytes, not int: 5",
    ),
    ("Fold", lambda s: s.range(limit=True), "limit is an integer, not a bool"),
    ("Fold", lambda s: s.range(limit=1 << 70), f"limit={1 << 70} is over the limit of"),
    ("Fold", lambda s: s.range(limit=-1), "limit=-1 is not at least 0"),
    ("Warm", lambda s: s.range(1, 0, limit=-1), "limit=-1 is not at least 0"),
    ("Fold", lambda s: s.compact(progress=3), "progress is a function, not int"),
    (
        "Vectors",
        lambda s: s.embed_kernel(holdfast.Kernel("img", 1, 1)),  # type: ignore[arg-type]
        r"Kernel\.image is bytes, not str: 'img'",
    ),
    (
        "Vectors",
        lambda s: s.embed_kernel(holdfast.Kernel(b"", "x", 1)),  # type: ignore[arg-type]
        r"Kernel\.arch is int, not str: 'x'",
    ),
    (
        "Vectors",
        lambda s: s.embed_kernel(holdfast.Kernel(b"", 256, 1)),
        "arch 256 of the kernel is not from 0 to 255",
    ),
    (
        "Vectors",
        lambda s: s.embed_wasm(holdfast.Wasm(b"", 1, 1, 1, -1)),
        "exports -1 of the WebAssembly is not from 0 to 65535",
    ),
    ("Vectors", lambda s: s.ingest([3], [[1e300, 0]]), "row 0.*: .*beyond float32"),
    ("Vectors", lambda s: s.query([1e300, 0]), "query 0 .*beyond float32"),
    ("Index", lambda s: s.insert(3, [1e300, 0]), "row 0.*: .*beyond float32"),
    ("Warm", lambda s: s.write(1, 0, [1], [[1e300, 0]]), "row 0.*: .*beyond float32"),
    ("Warm", lambda s: s.nearest([1e300, 0]), "vector .*beyond float32"),
    ("Vectors", lambda s: s.ingest([3], [ONE], {"vector": [1]}), "'vector': this name means the"),
    ("Vectors", lambda s: s.ingest([3], [ONE], [{"id": 1}]), "'id': this name means the id"),
]


@pytest.mark.parametrize(("face", "call", "said"), SAID, ids=[said for *_, said in SAID])
def test_the_error_names_what_is_wrong(
    handles: dict[str, Any], face: str, call: Callable[[Any], object], said: str
) -> None:
    """An error says which argument it was, what it is meant to be, and what it was."""
    with pytest.raises(holdfast.InvalidArgument, match=said):
        call(handles[face])


def test_numpy_integers_and_limits_are_taken_everywhere(tmp_path: Path) -> None:
    """numpy's integers count as integers, and a limit of none gives none, in every store."""
    with holdfast.open(tmp_path) as engine:
        fold, warm = engine.fold("f"), engine.warm("w", dimension=2)
        fold.apply([Put(key, b"") for key in "abc"], Cursor.from_u64(np.uint64(3)))
        warm.write(np.uint64(1), np.uint32(0), [1, 2, 3], [ONE] * 3)  # type: ignore[arg-type]
        assert fold.cursor().u64 == 3
        assert [entry.key for entry in fold.range(limit=np.int64(2))] == ["a", "b"]  # type: ignore[arg-type]
        assert warm.range(1, 0, limit=np.int64(2)).num_rows == 2  # type: ignore[arg-type]
        assert fold.range(limit=0) == []
        assert warm.range(1, 0, limit=0).num_rows == 0
        assert warm.range_many([1], 0, limit=0).num_rows == 0
        assert warm.range(1, 0, limit=0, reverse=True, columns=["vector"]).num_rows == 0


def test_every_store_says_how_much_it_holds(tmp_path: Path) -> None:
    """``count`` and ``len`` agree for all five; an empty store is true all the same."""
    with holdfast.open(tmp_path) as engine:
        fold, vectors = engine.fold("f"), engine.vectors("v", dimension=2)
        warm, index = engine.warm("w", dimension=2), engine.index("i", dimension=2)
        registry = engine.registry("r")
        stores = (fold, vectors, warm, index, registry)
        assert [len(store) for store in stores] == [0] * 5
        assert all(stores)
        fold.apply([Put("a", b""), Put("b", b"")], Cursor.none())
        vectors.ingest([1, 2, 3], [ONE] * 3)
        warm.put(0, TemporalPoint(1, 1, ONE))
        index.insert_batch([1, 2], [ONE] * 2)
        registry.save(MODEL)
        assert [len(store) for store in stores] == [2, 3, 1, 2, 1]
        assert [store.count() for store in stores] == [2, 3, 1, 2, 1]
