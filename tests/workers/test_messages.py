"""The messages: each arrives as it was sent, and nothing else is accepted in its place."""

import ast
import typing
from pathlib import Path

import msgspec
import pytest

from holdfast.formats import errors
from holdfast.formats.errors import ALL_ERRORS, HoldfastError, InternalError, WorkerTraceback
from holdfast.formats.iqdb_values import HnswParameters
from holdfast.formats.values import Cursor, Delete, KvEntry, Purge, Put, Version
from holdfast.workers import fold_messages as f
from holdfast.workers import index_messages as i
from holdfast.workers import messages as m
from holdfast.workers import registry_messages as r
from holdfast.workers import vector_messages as v
from holdfast.workers import warm_messages as w
from holdfast.workers.chronos_report import ChronosFile, ChronosFlaw, ChronosReport

ROOT = Path(__file__).parents[2]
ENTRY = KvEntry("k", b"v", Version.from_u64(7))
SPEC = m.StoreSpec("a", "fold", "/d/a.snap", "interval", 0.5, "/artifact", False)
VECTORS = v.VectorOptions(7, "cosine", "text", True)
INDEX = i.IndexOptions(
    "a.b:C", 7, "dot", HnswParameters(m=8), "zstd", 19, 5, False, True, False, ("/x",)
)
PROPERTIES: tuple[m.Properties, ...] = (
    v.VectorsAre(7, "cosine", "text", True),
    w.WarmIs(7, "zstd"),
    i.IndexIs("hnsw", "iqdb-core", 7, "dot", HnswParameters(8, 40)),
)
RAW = memoryview(bytes(range(16)))
U64_MAX = (1 << 64) - 1
SPACE_MAX = (1 << 32) - 1
HASH = bytes(range(32))
FAILURE = m.Failure("StoreCorrupt", "damaged", {"path": "/d", "offset": 7}, "trace")
UNIONS: dict[str, tuple[object, list[msgspec.Struct]]] = {
    "Request": (
        m.Request,
        [
            f.FoldApply(
                [Put("k", b"v"), Delete("k", Version.from_u64(1)), Purge("ü")],
                Cursor.from_bytes(b"0123456789"),
                True,
            ),
            f.FoldApply([]),
            f.FoldGet("k"),
            f.FoldGetMany(["", "k"]),
            f.FoldRange("k", 10),
            f.FoldScan("k", "k1"),
            f.FoldCursor(),
            f.FoldStaleKeys(["k"]),
            f.FoldCompact(),
            f.FoldExport("/x"),
            m.StoreStatus(),
            m.StoreMayDrop(),
            v.VectorsIngest(RAW, RAW, RAW, True, True),
            v.VectorsQuery(RAW, 1, 10, b"where", False, 64, True, ["name"], True),
            v.VectorsGet(RAW, False, False),
            v.VectorsDelete(RAW),
            v.VectorsDeleteWhere(b"where"),
            v.VectorsScan(U64_MAX, 7, b"where", False, False),
            v.VectorsCount(b"where"),
            v.VectorsCompact(),
            v.VectorsSegments(),
            v.VectorsFreeze(),
            v.VectorsBranch("/d/b.rvf", RAW, RAW),
            v.VectorsDerive("/d/d.rvf", "mean", 7),
            v.VectorsLineage(),
            v.VectorsCow(),
            v.VectorsMembers(RAW, RAW, True),
            v.VectorsEmbed("wasm", RAW),
            v.VectorsExtract("dashboard"),
            v.VectorsVerify(),
            v.VectorsRefresh(),
            v.VectorsIndex("recall"),
            v.VectorsDigests(U64_MAX),
            w.WarmWrite(SPACE_MAX, RAW, RAW, RAW, RAW, True),
            w.WarmGet(1, U64_MAX, -(1 << 63)),
            w.WarmLatest(1, 2, (1 << 63) - 1),
            w.WarmRange(1, RAW, -1, 1, 2, True, False, False, False),
            w.WarmDelete(1, RAW, RAW),
            w.WarmDeleteRange(None, None, -1, 1),
            w.WarmScan((1, U64_MAX, -1), 2, False, False, False),
            w.WarmSeries(1, (2, U64_MAX)),
            w.WarmNearest(RAW, 2, "ip", -1, 1, 3, RAW),
            w.WarmCount(),
            w.WarmCompact(),
            w.WarmFlush(),
            w.WarmVerify(),
            w.WarmImport("/d", "first", True, "skip", True),
            i.IndexInsert([U64_MAX, b"id"], RAW, [None, b"entries"], True),
            i.IndexDelete(RAW, True),
            i.IndexSearch(RAW, 1, 10, b"where", True, 64, True),
            i.IndexGet(RAW),
            i.IndexCheckpoint(False),
            i.IndexHeader(),
            i.IndexOptimize(),
            i.IndexScan(b"after", False),
            i.IndexHas(U64_MAX),
            i.IndexVerify(),
            r.RegistrySave([b"artifact"]),
            r.RegistryGet(HASH),
            r.RegistryNearest(b"fingerprint", 3, True),
            r.RegistryStartup(b"fingerprint", True),
            r.RegistryList(),
            r.RegistryDelete(HASH),
        ],
    ),
    "Reply": (
        m.Reply,
        [
            m.Done(),
            f.Entry(ENTRY),
            f.Entries([ENTRY]),
            f.MaybeEntries([ENTRY, None]),
            f.Page([ENTRY], more=True),
            f.CursorIs(Cursor.none()),
            f.Keys(["k"]),
            m.Compacted(2, 1),
            f.Exported("/x", 1, Cursor.from_u64(1), [f.ArtifactFile("p", 1, "00")]),
            f.Status(
                "fold", "/d/a.snap", "always", 1, 2, 3, 4, Cursor.none(), None, 5, 6, 7, 8, 9
            ),
            v.Ingested(1, 2, [v.RejectedRow(3, U64_MAX, "not finite")], 4),
            v.Hits(1, RAW, RAW, RAW, RAW, True),
            v.VectorRows(RAW, RAW, RAW, True),
            v.Deleted(1, 2),
            v.Counted(1),
            v.Segments([v.Segment(1, 2, 3, 7, "meta")]),
            v.Lineage(
                v.Identity("00", "01", "02", 3, "derived", "mean"),
                [v.Ancestor("/d/p.rvf", "01", 2, "missing"), v.Ancestor(None, "03", 1, None)],
            ),
            v.CowStats(True, "/d/p.rvf", 1, 2, 3, 4, 5, 6, 7, 8),
            v.Membership(1, 2, RAW),
            v.Image(RAW, b"hash"),
            v.Verified(
                [v.SegmentReport(1, 2, 3, "vec", "damaged", "why")],
                1, 2, 3, [v.Ancestor(None, "03", 1, None)], ["what"],
            ),
            v.VectorStatus(
                "vectors", "/d/a.rvf", "never", 1, "ip", "dna", 2, 3, 4, 5, 6, 7, 8, 9, True,
                False, "building", 10, 0.5, 0.25, None, 11, 12, 13, 14,
            ),
            v.Measured(0.5),
            v.Digests(RAW, RAW, True),
            w.WarmWritten(2, 1),
            w.WarmPoint(-1, RAW, {"a": "b"}),
            w.WarmRows(
                [w.RowsHere(RAW, RAW, RAW, RAW, RAW), w.RowsInChunk(1, 2, 3)],
                b"0123456789abcdef", 4, True, (1, U64_MAX, -1),
            ),
            w.WarmDeleted(1),
            w.WarmSeriesAre(RAW, RAW, RAW, RAW, RAW, True),
            w.WarmHits(RAW, RAW, RAW, RAW, RAW, RAW),
            w.WarmCounted(1),
            w.WarmVerified(1, 2, 3, [w.WarmFlaw("/d/LOG", None, "why")]),
            w.WarmStatus(
                "warm", "/d/w.warm", "never", 1, "lz4", 2, 3, 4, 5, 6, 7, 8, 1.5, 9, None, 10, 11,
                12, 13, 14,
            ),
            w.WarmImported(
                1, 2, 3, 4,
                ChronosReport(
                    [ChronosFile("a/b", U64_MAX, 1, 2, 3, 4, 5, 6, 7, 8, None, -1, {9: 10}, 11,
                                 [ChronosFlaw(12, "why")])],
                    ["note"], 1, ["other"], 2,
                ),
            ),
            i.IndexInserted(2, 1),
            i.IndexDeleted(1),
            i.IndexHits(1, [1, b"id"], RAW, [b"entries", None], True),
            i.IndexRows(RAW, RAW, [None], True),
            i.SnapshotInfo(2, "iqdb-core", 7, "dot", 1, "zstd", 2, 3),
            i.IndexOptimized(1),
            i.IndexHasIt(True),
            i.IndexVerified(1, 2, 3, ["problem"]),
            i.IndexStatus(
                "index", "/d/a.iqdb", "never", "hnsw", "iqdb-core", 1, "dot", 2, 3, 4, 5, 6, None,
                7, 8, 9, 10,
            ),
            r.RegistryFound(b"artifact"),
            r.RegistryNeighbours([r.Neighbour(b"artifact", 0.25)]),
            r.RegistryStart(b"artifact", 0.25),
            r.RegistryArtifacts([b"artifact"]),
            r.RegistryDeleted(True),
            r.RegistryStatus("registry", "/d/m.zsm", "never", 1, 2, None, 3, True, False, 4),
        ],
    ),
    "Ask": (
        m.Ask,
        [
            m.Hello(1, 2, (1 << 64) - 1, "python x.py"),
            m.OpenStore(SPEC, True, 5),
            m.OpenStore(m.StoreSpec("v", "vectors", "/d/v.rvf", options=VECTORS)),
            m.OpenStore(m.StoreSpec("i", "index", "/d/i.iqdb", options=INDEX)),
            m.Suspect("a", 5, 0.5),
            m.AskProcesses(),
            m.AskHealth(),
            m.RestartStore("a"),
            m.DropStore("a"),
            m.Leave(),
        ],
    ),
    "Answer": (
        m.Answer,
        [
            m.Welcome(1),
            m.Opened(1, 2, [m.Exit(1, "killed", 2, 3, True, False)], True, SPEC),
            m.Processes([m.ProcessInfo("supervisor", None, 1), m.ProcessInfo("worker", "a", 2)]),
            m.Health([m.StoreHealth("a", "fold", "/d/a.snap", "running", 1, 0, None)]),
            m.Accepted(),
            m.LogLine("holdfast.fold", 30, "text", 1.5, 2),
        ],
    ),
    "Order": (m.Order, [m.Serve(1), m.Stop(True), m.Ping()]),
    "Report": (
        m.Report,
        [m.Ready(), *map(m.Ready, PROPERTIES), m.Refused(FAILURE), m.Dying(FAILURE),
         m.LogLine("holdfast.fold", 30, "text", 1.5, 2)],
    ),
}  # fmt: skip
CASES = [
    pytest.param(union, message, id=f"{name}-{type(message).__name__}")
    for name, (union, samples) in UNIONS.items()
    for message in samples
]


@pytest.mark.parametrize(("union", "message"), CASES)
def test_every_message_arrives_as_it_was_sent(union: object, message: msgspec.Struct) -> None:
    """Encoding and decoding by its union gives the same message, of the same type."""
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=union)
    assert type(again) is type(message)
    assert again == message


@pytest.mark.parametrize("name", UNIONS)
def test_every_message_of_a_union_is_among_the_samples(name: str) -> None:
    """A message added later cannot be forgotten here."""
    union, samples = UNIONS[name]
    assert {type(sample) for sample in samples} == set(typing.get_args(union))


@pytest.mark.parametrize("name", UNIONS)
def test_tags_are_unique_within_a_union(name: str) -> None:
    """A tag names one message."""
    union, _ = UNIONS[name]
    tags = [kind.__struct_config__.tag for kind in typing.get_args(union)]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(("union", "message"), CASES)
def test_a_field_of_a_wrong_type_is_refused(union: object, message: msgspec.Struct) -> None:
    """Whichever field holds something else, the message is not decoded."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    for number in range(1, len(fields)):
        # An extension type: no field has any, and an unknown key may be passed over.
        wrong = [*fields[:number], msgspec.msgpack.Ext(1, b"wrong"), *fields[number + 1 :]]
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=union)


@pytest.mark.parametrize("name", UNIONS)
@pytest.mark.parametrize(
    "foreign", [[99], [], {}, "text", 7, None, [None], ["1"], [-1, "k"]], ids=repr
)
def test_what_is_no_message_is_refused(name: str, foreign: object) -> None:
    """Unknown tags and foreign shapes are errors of the decoder, not messages."""
    union, _ = UNIONS[name]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(foreign), type=union)


@pytest.mark.parametrize("value", [-1, 0.5, "1"], ids=repr)
def test_numbers_that_no_id_has(value: object) -> None:
    """A page is asked for from behind an id, which is a u64."""
    for tag in (26, 41):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode([tag, value]), type=m.Request)


@pytest.mark.parametrize("count", [-1, 1.5])
def test_counts_that_cannot_be(count: object) -> None:
    """Fewer than no queries, or hits, are no request."""
    for fields in ([b"", count, 1], [b"", 1, count]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode([22, *fields]), type=m.Request)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode([26, None, count]), type=m.Request)


@pytest.mark.parametrize(
    "fields",
    [
        [52, -1, 1, 1],
        [52, 1 << 32, 1, 1],
        [52, 1, -1, 1],
        [52, 1, 1, 1 << 63],
        [52, 1, 1, 0.5],
        [54, 1, b"", 0, 1, -1],
        [57, [1, 1]],
        [59, b"", 1, "l1", 0, 1],
        [64, "/d", "both", False, "skip", False],
    ],
    ids=repr,
)
def test_keys_and_choices_that_cannot_be(fields: list[object]) -> None:
    """Spaces, entities and times of a point have bounds, and words are some few."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=m.Request)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    """A model is asked for and deleted by a hash of 32 bytes."""
    for tag in (101, 105):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode([tag, bytes(size)]), type=m.Request)


@pytest.mark.parametrize("token", [b"01234567890", b"x" * 1000], ids=["11 bytes", "1000 bytes"])
def test_a_token_that_is_too_long_is_refused(token: bytes) -> None:
    """The limit holds on the wire, too, not only where values are made."""
    data = msgspec.msgpack.encode([1, [], [token], False])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(data, type=m.Request)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_crosses_the_wire(kind: type[HoldfastError]) -> None:
    """Type, message, details and the worker's traceback arrive."""
    samples = {"offset": 7, "errno": 28, "pid": 9, "may_have_happened": True}
    details = {name: samples.get(name, f"/{name}") for name in kind.details}
    failure = m.Failure.of(kind("what happened", **details), "Traceback ...")
    data = msgspec.msgpack.encode(failure)
    error = msgspec.msgpack.decode(data, type=m.Failure).error()
    assert type(error) is kind
    assert str(error) == "what happened"
    assert error.wire_details() == details
    assert isinstance(error.__cause__, WorkerTraceback)


def test_an_error_of_nobody_s_becomes_internal() -> None:
    """What no rule foresaw is told as a defect, by its type and text."""
    error = m.Failure.of(ZeroDivisionError("division by zero")).error()
    assert type(error) is InternalError
    assert str(error) == "ZeroDivisionError: division by zero"


def test_an_unknown_error_becomes_the_root() -> None:
    """A newer worker's error is still a ``HoldfastError``."""
    error = errors.from_wire("FromTheFuture", "text", {"unknown": 1})
    assert type(error) is HoldfastError
    assert str(error) == "text"


def test_nothing_is_pickled() -> None:
    """No module of the engine imports a serialiser that can run code, nor sends objects."""
    for layer in ("engine", "workers", "formats"):
        for path in (ROOT / layer).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imported = {
                alias.name.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in [*node.names, *([ast.alias(node.module or "")]
                              if isinstance(node, ast.ImportFrom) else [])]
            }  # fmt: skip
            assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
            called = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            assert not called & {"send_obj", "ForkingPickler", "Pipe", "Queue", "Manager"}, path
