"""What a type checker says of every public call: what a user would want to read."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parents[2]

STATUS = "Status | VectorStatus | WarmStatus | IndexStatus | RegistryStatus"
# Expression to type; ``await`` marks the asyncio face.
EXPECTED = {
    "holdfast.open('d')": "Engine",
    "engine.directory": "str",
    "engine.stores()": "dict[str, str]",
    "engine.fold('a')": "Fold",
    "engine.import_fold('a', 'd')": "Fold",
    "engine.processes()": "list[ProcessInfo]",
    "engine.processes()[0].role": "Literal['supervisor', 'worker']",
    "engine.processes()[0].pid": "int",
    "engine.health()": "list[StoreHealth]",
    "engine.status('a')": STATUS,
    "engine.__enter__()": "Engine",
    "fold.name": "str",
    "fold.path": "str",
    "fold.get('k')": "KvEntry | None",
    "fold.get('k', timeout=1)": "KvEntry | None",
    "fold.get_many(['k'])": "list[KvEntry | None]",
    "fold.range('k', limit=1)": "list[KvEntry]",
    "fold.scan('k')": "Iterator[KvEntry]",
    "fold.count()": "int",
    "len(fold)": "int",
    "fold.cursor()": "Cursor",
    "fold.cursor().u64": "int | None",
    "fold.stale_keys({'k'})": "list[str]",
    "fold.compact(progress=print)": "Compacted",
    "fold.export('d')": "Exported",
    "fold.export(Path('d'))": "Exported",
    "[holdfast.Put('k', b'v'), holdfast.Delete('k')]": "list[Update]",
    "fold.status()": "Status",
    "fold.status().durability": "Literal['always', 'interval', 'never']",
    "holdfast.Cursor.from_u64(1)": "Cursor",
    "engine.vectors('a', dimension=8)": "Vectors",
    "engine.vectors('a', metric='cosine', profile='text', read_only=True)": "Vectors",
    "vectors.name": "str",
    "vectors.dimension": "int",
    "vectors.metric": "Literal['l2', 'ip', 'cosine']",
    "vectors.profile": "Literal['generic', 'dna', 'text', 'graph', 'vision']",
    "vectors.ingest([1], [[0.5]], {'a': [1]}, invalid='skip')": "Ingested",
    "vectors.ingest([1], [[0.5]]).rejected[0].reason": "str",
    "vectors.query([0.5], 3, where=pc.field('a') > 1, include=['metadata'])": "QueryResult",
    "vectors.get(range(9), include=())": "Rows",
    "vectors.delete([1])": "int",
    "vectors.delete_where(pc.field('a').is_null())": "int",
    "vectors.count()": "int",
    "vectors.scan(batch_rows=7)": "Iterator[Any]",
    "vectors.compact(progress=print)": "Compacted",
    "vectors.segments()": "list[Segment]",
    "vectors.status()": "VectorStatus",
    "vectors.status().index_recall": "float | None",
    "vectors.verify(progress=print)": "Verified",
    "vectors.verify().segments[0].state": "Literal['intact', 'damaged', 'unverifiable']",
    "vectors.refresh()": "int",
    "vectors.build_index()": "int",
    "vectors.cancel_index()": "int",
    "vectors.measure_recall()": "float | None",
    "vectors.identity()": "Identity",
    "vectors.lineage()": "Lineage",
    "vectors.lineage().ancestors[0].problem": "str | None",
    "vectors.cow_stats()": "CowStats",
    "vectors.membership()": "Membership",
    "vectors.limit(exclude=[1], timeout=1)": "Membership",
    "vectors.branch('b', include=[1])": "Vectors",
    "vectors.derive('d', 'mean', dimension=4)": "Vectors",
    "vectors.diff(vectors)": "Difference",
    "vectors.extract_kernel()": "Kernel | None",
    "vectors.extract_kernel_binding(check=True)": "KernelBinding | None",
    "vectors.extract_ebpf()": "Ebpf | None",
    "vectors.extract_wasm()": "Wasm | None",
    "vectors.extract_dashboard()": "Dashboard | None",
    "engine.index('i', kind='hnsw', dimension=8, metric='dot', compression='zstd')": "Index",
    "index.metric": "Literal['cosine', 'dot', 'euclidean', 'manhattan', 'hamming']",
    "index.insert(1, [0.5], {'a': 1})": "None",
    "index.insert_batch([1, b'2'], [[0.5], [1.5]])": "IndexInserted",
    "index.delete(1, missing_ok=True)": "bool",
    "index.delete_batch([1])": "int",
    "index.search([0.5], 3, where=pc.field('a') > 1, metadata=True)": "IndexHits",
    "index.get([1])": "list[IndexRow]",
    "index.get([1])[0].id": "int | bytes",
    "index.count()": "int",
    "len(index)": "int",
    "index.contains(1)": "bool",
    "index.ids()": "Iterator[int | bytes]",
    "index.scan()": "Iterator[IndexRow]",
    "index.verify().problems": "list[str]",
    "index.checkpoint(progress=print)": "Compacted",
    "index.header()": "SnapshotInfo",
    "index.status()": "IndexStatus",
    "holdfast.PersistedIndex.open('i.iqdb', dimension=8)": "PersistedIndex",
    "holdfast.PersistedIndex.open('i.iqdb').checkpoint()": "Compacted",
    "holdfast.PersistedIndex.open('i.iqdb').status()": "IndexStatus",
    "holdfast.PersistedIndex.read_header('i.iqdb')": "SnapshotInfo",
    "engine.warm('w', dimension=8, compression='lz4')": "Warm",
    "warm.name": "str",
    "warm.dimension": "int",
    "warm.compression": "Literal['none', 'zstd', 'lz4']",
    "warm.write(1, 0, [1], [[0.5]], [{'a': 'b'}], non_finite='accept')": "WarmWritten",
    "warm.write_batch(0, [holdfast.TemporalPoint(1, 2, np.zeros(8, np.float32))])": "WarmWritten",
    "warm.put(0, holdfast.TemporalPoint(1, 2, np.zeros(8, np.float32)))": "WarmWritten",
    "holdfast.TemporalPoint(1, moment, [1.0, 2.0]).vector": (
        "ndarray[tuple[Any, ...], dtype[floating[_32Bit]]]"
    ),
    "holdfast.TemporalPoint(1, 2, np.zeros(8)).timestamp": "int",
    "warm.range(1, 0, moment, np.datetime64('2024-01-01'))": "Any",
    "warm.latest(1, 0, at=moment)": "TemporalPoint | None",
    "warm.retain(np.int64(7))": "int",
    "warm.delete(1, 0, [1])": "int",
    "warm.delete_range(1, 0, 1, 2)": "int",
    "warm.retain(7)": "int",
    "warm.get(1, 0, 7)": "TemporalPoint | None",
    "warm.contains(1, 0, 7)": "bool",
    "warm.latest(1, 0, at=7)": "TemporalPoint | None",
    "warm.count()": "int",
    "len(warm)": "int",
    "warm.range(1, 0, end=9, limit=3, reverse=True, columns=['vector'])": "Any",
    "warm.range_many([1, 2], 0)": "Any",
    "warm.scan(batch_rows=7)": "Iterator[Any]",
    "warm.to_table(columns=['timestamp'])": "Any",
    "warm.dataset()": "Any",
    "warm.series(space=0)": "Any",
    "warm.nearest([0.5], 3, start=1, end=2, entities=[1], metric='ip')": "Any",
    "warm.compact(progress=print)": "Compacted",
    "warm.verify()": "WarmVerified",
    "warm.verify().flaws[0].offset": "int | None",
    "warm.status()": "WarmStatus",
    "warm.status().write_amplification": "float",
    "warm.import_chronos('d', duplicates='first', damaged='salvage')": "WarmImported",
    "warm.import_chronos('d').report.files[0].flaws[0].reason": "str",
    "engine.registry('a')": "Registry",
    "registry.get_exact(fp)": "ModelArtifact | None",
    "registry.get_exact(fp.schema_hash)": "ModelArtifact | None",
    "registry.nearest(fp)[0]": "tuple[ModelArtifact, float, fallback=Neighbour]",
    "registry.nearest(fp, 3)[0].distance": "float",
    "registry.lookup_startup_mode(fp)": "WarmLoad | WarmStart | ColdStart",
    "registry.list_all()[0].m": "tuple[ndarray[tuple[Any, ...], dtype[floating[_32Bit]]], ...]",
    "registry.count()": "int",
    "len(registry)": "int",
    "registry.delete(fp)": "bool",
    "registry.status().artifacts": "int",
    "holdfast.SchemaFingerprint.from_schema([('a', 'Name')])": "SchemaFingerprint",
    "holdfast.SchemaFingerprint.from_sample([('a', 'Id')], [{'a': 1}])": "SchemaFingerprint",
    "holdfast.ModelArtifact(fp, [[0.5]], [[0.5]], 0, 1, 0, trained_on=7)": "ModelArtifact",
    "holdfast.Version.none()": "Version",
    "await holdfast.aio.open('d')": "AsyncEngine",
    "await holdfast.aio.open('d').__aenter__()": "AsyncEngine",
    "await aengine.stores()": "dict[str, str]",
    "await aengine.fold('a')": "AsyncFold",
    "await aengine.import_fold('a', 'd')": "AsyncFold",
    "await aengine.processes()": "list[ProcessInfo]",
    "await aengine.health()": "list[StoreHealth]",
    "await aengine.status('a')": STATUS,
    "await afold.get('k', timeout=1)": "KvEntry | None",
    "await afold.get_many(['k'])": "list[KvEntry | None]",
    "await afold.range('k', limit=1)": "list[KvEntry]",
    "afold.scan('k')": "AsyncIterator[KvEntry]",
    "await afold.cursor()": "Cursor",
    "await afold.stale_keys({'k'})": "list[str]",
    "await afold.compact(progress=print)": "Compacted",
    "await afold.export('d')": "Exported",
    "await afold.status()": "Status",
    "await aengine.vectors('a', dimension=8)": "AsyncVectors",
    "avectors.metric": "Literal['l2', 'ip', 'cosine']",
    "await avectors.ingest([1], [[0.5]], invalid='skip')": "Ingested",
    "await avectors.query([0.5], 3, where=pc.field('a') > 1)": "QueryResult",
    "await avectors.get(range(9), include=())": "Rows",
    "await avectors.delete([1])": "int",
    "await avectors.count()": "int",
    "avectors.scan(batch_rows=7)": "AsyncIterator[Any]",
    "await avectors.compact(progress=print)": "Compacted",
    "await avectors.status()": "VectorStatus",
    "await avectors.limit(exclude=[1])": "Membership",
    "await aengine.index('i', dimension=8)": "AsyncIndex",
    "await aindex.search([0.5], 3)": "IndexHits",
    "await aindex.contains(1)": "bool",
    "aindex.scan()": "AsyncIterator[IndexRow]",
    "await aindex.checkpoint(timeout=1)": "Compacted",
    "await aengine.warm('w', dimension=8)": "AsyncWarm",
    "awarm.dimension": "int",
    "await awarm.write(1, 0, [1], [[0.5]])": "WarmWritten",
    "await awarm.get(1, 0, 7)": "TemporalPoint | None",
    "await awarm.count()": "int",
    "awarm.scan(batch_rows=7)": "AsyncIterator[Any]",
    "await awarm.to_table()": "Any",
    "await awarm.compact(progress=print)": "Compacted",
    "await awarm.status()": "WarmStatus",
    "await avectors.branch('b', include=[1])": "AsyncVectors",
    "await avectors.derive('d', 'mean')": "AsyncVectors",
    "await avectors.diff(avectors)": "Difference",
    "await avectors.extract_kernel()": "Kernel | None",
    "await aengine.registry('a')": "AsyncRegistry",
    "await aregistry.lookup_startup_mode(fp)": "WarmLoad | WarmStart | ColdStart",
    "await afold.count()": "int",
    "await aregistry.count()": "int",
    "await aregistry.delete(fp)": "bool",
}
# These return nothing, which a checker holds against whoever uses the result.
STATEMENTS = """
    fold.apply([holdfast.Put('k', b'v'), holdfast.Delete('k')], holdfast.Cursor.none())
    fold.apply(updates, holdfast.Cursor.none())
    fold.apply((u for u in [holdfast.Purge('k')]), holdfast.Cursor.none(), stale='refuse')
    fold.apply({holdfast.Put('k', b'v'): 1}, holdfast.Cursor.none(), timeout=1)
    fold.apply([holdfast.Put('k', b'v')])
    engine.restart('a', timeout=1.5)
    engine.drop('a')
    engine.close()
    await afold.apply([holdfast.Put('k', b'v')], holdfast.Cursor.none(), stale='refuse')
    await aengine.restart('a')
    await aengine.drop('a')
    await aengine.close()
    vectors.freeze()
    vectors.embed_kernel(holdfast.Kernel(b'image', 0, 0))
    warm.flush()
    await awarm.flush()
    registry.save(model)
    registry.save_many([model])
    await aregistry.save(model)
    await avectors.freeze()
    await avectors.embed_wasm(holdfast.Wasm(b'module', 0, 0, 0, 0))
    asyncio.create_task(afold.get('k')).add_done_callback(print)
    await asyncio.gather(afold.get('k'), aengine.processes())
"""
# What must not pass, each by the code of the error it has to get.
MISTAKES = {
    "fold.get(7)": "arg-type",
    "fold.get('k', 1.0)": "call-arg",
    "fold.apply(['k'], holdfast.Cursor.none())": "list-item",
    "fold.apply([], holdfast.Version.none())": "arg-type",
    "fold.apply([], holdfast.Cursor.none(), stale='maybe')": "arg-type",
    "engine.fold('a', durability='sometimes')": "arg-type",
    "holdfast.Put('k', 'text')": "arg-type",
    "fold.get('k').value": "union-attr",
    "await fold.get('k')": "misc",
    "await afold.get(7)": "arg-type",
    "engine.vectors('a', metric='l1')": "arg-type",
    "engine.vectors('a', 8)": "call-arg",
    "vectors.ingest([1], [[0.5]], invalid='ignore')": "arg-type",
    "vectors.query([0.5], '3')": "arg-type",
    "vectors.query([0.5], include=['everything'])": "list-item",
    "vectors.branch(7)": "arg-type",
    "vectors.diff(avectors)": "arg-type",
    "vectors.extract_kernel().image": "union-attr",
    "await avectors.derive('d')": "call-arg",
    "engine.warm('w', 8)": "call-arg",
    "engine.warm('w', compression='gzip')": "arg-type",
    "warm.write('1', 0, [1], [[0.5]])": "arg-type",
    "warm.put(0, (1, 2, [0.5]))": "arg-type",
    "warm.put(0, holdfast.TemporalPoint(1, 2, [0.5]), non_finite='maybe')": "arg-type",
    "warm.write(1, 0, [1], [[0.5]], non_finite='maybe')": "arg-type",
    "warm.write_batch(0, {}, non_finite='maybe')": "arg-type",
    "warm.range(1, 0, '2024-01-01')": "arg-type",
    "warm.get(1, 0, 7.5)": "arg-type",
    "warm.get(1, 0, 7).vector": "union-attr",
    "warm.nearest([0.5], metric='l1')": "arg-type",
    "warm.import_chronos('d', damaged='maybe')": "arg-type",
    "registry.save(fp)": "arg-type",
    "registry.get_nearest(fp).distance": "union-attr",
    "registry.lookup_startup_mode(fp).distance": "union-attr",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says of each line of a program that makes all these calls."""
    folder = tmp_path_factory.mktemp("types")
    # mypy does not know that engine/ is holdfast/, so it gets a folder where it is.
    package = folder / "path" / "holdfast"
    package.mkdir(parents=True)
    for entry in (ROOT / "engine").iterdir():
        (package / entry.name).symlink_to(entry)
    for layer in ("workers", "formats"):
        (package / layer).symlink_to(ROOT / layer)
    program = folder / "program.py"
    program.write_text(source(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
         "--no-error-summary", "--config-file=", f"--cache-dir={folder}", str(program)],
        env={**os.environ, "MYPYPATH": str(package.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        found = re.match(r".*program\.py:(\d+): (.*)", line)
        assert found, done.stdout
        said[int(found[1])] = said.get(int(found[1]), "") + found[2]
    return said


def source() -> str:
    """The program: one call a line, so that each is found by its line."""
    return "\n".join(
        [
            "import asyncio, datetime, holdfast",
            "from pathlib import Path",
            "import numpy as np",
            "import pyarrow.compute as pc  # type: ignore[import-untyped]",
            "async def main(engine: holdfast.Engine, fold: holdfast.Fold,",
            "               aengine: holdfast.AsyncEngine, afold: holdfast.AsyncFold,",
            "               vectors: holdfast.Vectors, avectors: holdfast.AsyncVectors,",
            "               index: holdfast.Index, aindex: holdfast.AsyncIndex,",
            "               warm: holdfast.Warm, awarm: holdfast.AsyncWarm,",
            "               registry: holdfast.Registry, aregistry: holdfast.AsyncRegistry,",
            "               fp: holdfast.SchemaFingerprint,",
            "               model: holdfast.ModelArtifact, moment: datetime.datetime) -> None:",
            "    updates = [holdfast.Put('k', b'v'), holdfast.Delete('k'), holdfast.Purge('k')]",
            *(f"    reveal_type({call})" for call in EXPECTED),
            *STATEMENTS.strip("\n").splitlines(),
            *(f"    {call}" for call in MISTAKES),
            "",
        ]
    )


def line_of(text: str) -> int:
    """The line that consists of this."""
    lines = [line.strip() for line in source().splitlines()]
    assert lines.count(text) == 1, text
    return lines.index(text) + 1


def short(type_name: str) -> str:
    """A type without the modules that its parts come from, and literals in one bracket."""
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", type_name).replace("] | Literal[", ", ")


@pytest.mark.parametrize("call", EXPECTED)
def test_what_a_call_returns(told: dict[int, str], call: str) -> None:
    """``reveal_type`` shows the type a user would write down, not one of holdfast's inside."""
    found = re.fullmatch(r'note: Revealed type is "(.*)"', told[line_of(f"reveal_type({call})")])
    assert found
    assert short(found[1]) == EXPECTED[call]


@pytest.mark.parametrize("statement", [line.strip() for line in STATEMENTS.split("\n") if line])
def test_what_is_meant_to_be_written_passes(told: dict[int, str], statement: str) -> None:
    """The checker has no objection to a call as the documentation shows it."""
    assert told.get(line_of(statement.strip())) is None


@pytest.mark.parametrize("call", MISTAKES)
def test_what_would_fail_is_found_before_it_runs(told: dict[int, str], call: str) -> None:
    """A wrong argument is an error of the checker, too."""
    said = told.get(line_of(call), "nothing")
    assert said.startswith("error: "), said
    assert f"[{MISTAKES[call]}]" in said


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [
        (holdfast.Engine, holdfast.AsyncEngine),
        (holdfast.Fold, holdfast.AsyncFold),
        (holdfast.Vectors, holdfast.AsyncVectors),
        (holdfast.Index, holdfast.AsyncIndex),
        (holdfast.Warm, holdfast.AsyncWarm),
        (holdfast.Registry, holdfast.AsyncRegistry),
    ],
    ids=lambda face: face.__name__,
)
def test_both_faces_have_the_same_operations(blocking: type, awaited: type) -> None:
    """Whatever can be called one way can be awaited, with the same arguments by the same names."""
    theirs = _operations(awaited)
    theirs.pop("connect", None)  # which an engine's constructor does otherwise
    assert theirs == _operations(blocking)


FACES = [
    getattr(holdfast, prefix + name)
    for prefix in ("", "Async")
    for name in ("Engine", "Fold", "Vectors", "Index", "Warm", "Registry")
]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_what_help_shows(face: type) -> None:
    """Each method is shown with what it returns, and not with the call that it is made of."""
    for name in dir(face):
        method = getattr(face, name)
        if not name.startswith("_") and callable(method):
            assert "Call[" not in str(inspect.signature(method)), name
            assert "Call[" not in str(inspect.get_annotations(method)["return"]), name
    assert "KvEntry | None" in str(inspect.signature(holdfast.Fold.get))


def _operations(face: type) -> dict[str, list[tuple[str, object, str]]]:
    """Names, kinds, defaults of each operation's arguments."""
    found = {}
    for name in dir(face):
        if not name.startswith("_"):
            operation = inspect.getattr_static(face, name)
            arguments = []
            if callable(operation):
                parameters = inspect.signature(getattr(face, name)).parameters.values()
                arguments = [(p.name, p.default, p.kind.name) for p in parameters]
            found[name] = arguments
    return found
