"""Registries with real processes: kills under load, several hosts, asyncio, bad input, files."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import holdfast
from holdfast import ColdStart, ModelArtifact, SchemaFingerprint, WarmLoad, WarmStart
from holdfast.workers.message import Durability
from tests.formats.zsm_samples import check_checks, read_file
from tests.process.harness import LONG, send, supervisor_pid, until, wait_until_none, worker_pid

WRITERS = 4
ROUNDS = 40 if LONG else 12
COMMON = [(f"field {n}", "Name") for n in range(9)]


def fingerprint(*extra: str) -> SchemaFingerprint:
    """The fingerprint of the common fields and some more."""
    return SchemaFingerprint.from_schema(
        [*COMMON, *((name, "Id") for name in extra)], created_at=1_750_000_000
    )


def model(found: SchemaFingerprint, version: int) -> ModelArtifact:
    """A model for a schema; its prior tells which."""
    rows = np.full((len(found.field_stats), 4), 0.25)
    return ModelArtifact(found, rows, rows, version, 0.9, 0.1, f"v{version}", trained_on=version)


class Writer(threading.Thread):
    """Saves ever newer models for a schema of its own, deletes now and then, and reads back."""

    def __init__(self, store: holdfast.Registry, number: int, going: threading.Event) -> None:
        super().__init__()
        self._store = store
        self._fingerprint = fingerprint(f"writer {number}")
        self._going = going
        self.acknowledged: int | None = None
        """The version that must be there; None when there must be none."""
        self.calls = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            for count in itertools.count(1):
                if not self._going.is_set():
                    return
                self._write(count)
        except BaseException as error:
            self.errors.append(error)

    def _write(self, count: int) -> None:
        there = self.acknowledged is not None
        if count % 7:
            self._store.save(model(self._fingerprint, count))
            self.acknowledged = count
        else:
            assert self._store.delete(self._fingerprint) is there
            self.acknowledged = None
        self.check(self._store)
        self.calls += 2

    def check(self, store: holdfast.Registry) -> None:
        """What was acknowledged is what is there."""
        found = store.get_exact(self._fingerprint)
        if self.acknowledged is None:
            assert found is None
        else:
            assert found == model(self._fingerprint, self.acknowledged)


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_kills_under_load_break_no_promise(tmp_path: Path, durability: Durability) -> None:
    """Workers and supervisors die again and again; no call fails and no write is lost."""
    with holdfast.open(tmp_path) as engine:
        interval = 0.05 if durability == "interval" else None
        store = engine.registry("m", durability=durability, interval=interval)
        going = threading.Event()
        going.set()
        writers = [Writer(store, number, going) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for number in range(ROUNDS):
            seen = sum(writer.calls for writer in writers)
            until(
                lambda seen=seen: (
                    sum(w.calls for w in writers) > seen + 8  # type: ignore[misc]
                    or any(w.errors for w in writers)
                ),
                "the writers have gone on",
            )
            pid = supervisor_pid(engine) if number % 4 == 3 else worker_pid(engine, "m")
            send(pid, signal.SIGKILL)
        going.clear()
        for writer in writers:
            writer.join()
            assert not writer.errors, writer.errors
    with holdfast.open(tmp_path) as engine:
        store = engine.registry("m", create=False)
        for writer in writers:
            writer.check(store)
    wait_until_none(tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.name != ".holdfast"}
    assert left == {"m.zsm", "m.zsm.previous"}


def test_whoever_reads_the_file_sees_a_whole_generation(tmp_path: Path) -> None:
    """Beside writers and kills, every look at the file shows whole entries and right checksums."""
    looks: list[int] = []
    with holdfast.open(tmp_path) as engine:
        store = engine.registry("m", durability="never")
        going = threading.Event()
        going.set()
        writers = [Writer(store, number, going) for number in range(2)]
        for writer in writers:
            writer.start()
        for number in range(ROUNDS * 20):
            content = (tmp_path / "m.zsm").read_bytes()
            found, end = read_file(content)
            check_checks(content, end)
            looks.append(len(found))
            if number % 20 == 10:
                send(worker_pid(engine, "m"), signal.SIGKILL)
                seen = sum(writer.calls for writer in writers)
                until(
                    lambda seen=seen: (
                        sum(w.calls for w in writers) > seen + 8  # type: ignore[misc]
                        or any(w.errors for w in writers)
                    ),
                    "the writers have gone on",
                )
        going.clear()
        for writer in writers:
            writer.join()
            assert not writer.errors, writer.errors
    assert {1, 2} <= set(looks)


def test_the_three_modes(tmp_path: Path) -> None:
    """Exact, near and far; ties by the hash; strictly apart with mappings."""
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("models")
        plain = fingerprint()
        assert registry.lookup_startup_mode(plain) == ColdStart()
        assert registry.get_nearest(plain) is None
        saved = [model(fingerprint(name), n) for n, name in enumerate("ab")]
        registry.save_many(saved)
        assert registry.lookup_startup_mode(saved[0].fingerprint) == WarmLoad(saved[0])
        near = registry.lookup_startup_mode(plain)
        assert isinstance(near, WarmStart)
        first = min(saved, key=lambda m: m.schema_hash)
        assert near.artifact == first
        assert near.distance == plain.distance_to(first.fingerprint)
        far = SchemaFingerprint.from_schema([("x", "Date")])
        assert registry.lookup_startup_mode(far) == ColdStart()
        assert [n.artifact for n in registry.nearest(plain, 5)] == sorted(
            saved, key=lambda m: m.schema_hash
        )
        mapped = SchemaFingerprint.from_schema(COMMON, mappings=[("field 1", "other")])
        assert isinstance(registry.lookup_startup_mode(mapped), WarmStart)
        assert registry.lookup_startup_mode(mapped, strict=True) == ColdStart()
        assert registry.nearest(mapped, strict=True) == []
        assert isinstance(registry.list_all()[0].fingerprint, SchemaFingerprint)
        assert engine.stores() == {"models": "registry"}


def test_a_sample_of_a_table_finds_its_model(tmp_path: Path) -> None:
    """The fingerprint of the next batch of a table loads the model of the one before."""
    fields = [("name", "Name"), ("born", "Date"), ("id", "Id")]
    table = pa.table({"name": ["x", "y", None], "born": ["2001", "", "1999"], "id": [1, 2, 3]})
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("models")
        trained = model(SchemaFingerprint.from_sample(fields, table), 3)
        registry.save(trained)
        mode = registry.lookup_startup_mode(
            SchemaFingerprint.from_sample(reversed(fields), table.slice(1).to_pylist())
        )
        assert mode == WarmLoad(trained)


def test_two_hosts_and_a_forked_child(tmp_path: Path) -> None:
    """Every process sees what any other was told is done; a forked child reconnects by itself."""
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("m")
        registry.save(model(fingerprint("here"), 1))
        script = f"""
            import holdfast
            with holdfast.open({str(tmp_path)!r}) as engine:
                registry = engine.registry("m")
                (found,) = registry.list_all()
                registry.delete(found.schema_hash)
                print(found.tag)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "v1\n"
        assert registry.list_all() == []
        child = os.fork()
        if not child:
            code = 1
            try:
                registry.save(model(fingerprint("child"), 2))
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert [m.tag for m in registry.list_all()] == ["v2"]


def test_the_original_writes_beside_us(tmp_path: Path) -> None:
    """A file that another program puts in place is taken up, and its models are kept."""
    golden = Path(__file__).parents[1] / "data" / "zsm" / "reg-5.zsm"
    path = tmp_path / "m.zsm"
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("m")
        registry.save(model(fingerprint(), 1))
        (tmp_path / "m.zsm.tmp").write_bytes(golden.read_bytes())
        os.rename(tmp_path / "m.zsm.tmp", path)
        assert len(registry.list_all()) == 5
        registry.save(model(fingerprint(), 2))
        assert len(registry.list_all()) == 6
    assert (tmp_path / "m.zsm.previous").read_bytes() == golden.read_bytes()


def test_asyncio(tmp_path: Path) -> None:
    """Many saves at once are all there, and cancelled or not, answers go to who asked."""

    async def play() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            registry = await engine.registry("m")
            models = [model(fingerprint(str(n)), n) for n in range(40)]
            await asyncio.gather(*(registry.save(one) for one in models))
            found = await asyncio.gather(*(registry.get_exact(m.schema_hash) for m in models))
            assert found == models
            assert await registry.lookup_startup_mode(models[7].fingerprint) == WarmLoad(models[7])
            assert await registry.delete(models[7].fingerprint)
            assert len(await registry.list_all()) == 39
            assert len(await registry.nearest(models[7].fingerprint, 50)) == 39
            status = await registry.status()
            assert (status.kind, status.artifacts) == ("registry", 39)

    asyncio.run(play())


GOOD = model(fingerprint(), 1)
Calls = dict[str, tuple[Callable[[holdfast.Registry], object], type[Exception], str]]
BAD: Calls = {
    "type": (lambda r: r.save("x"), holdfast.InvalidArgument, "artifact is a ModelArtifact"),  # type: ignore[arg-type]
    "rows": (
        lambda r: r.save(ModelArtifact(GOOD.fingerprint, [], [], 0, 0, 0, trained_on=1)),
        holdfast.InvalidArgument,
        "artifact: m has 0 rows",
    ),
    "many": (
        lambda r: r.save_many([GOOD, 7]),  # type: ignore[list-item]
        holdfast.InvalidArgument,
        r"artifacts\[1\] is a ModelArtifact",
    ),
    "one for many": (lambda r: r.save_many(GOOD), holdfast.InvalidArgument, "in a list"),  # type: ignore[arg-type]
    "hash": (lambda r: r.get_exact(b"x"), holdfast.InvalidArgument, "32 bytes"),
    "hash text": (lambda r: r.delete("00" * 32), holdfast.InvalidArgument, "32 bytes"),  # type: ignore[arg-type]
    "fingerprint": (lambda r: r.get_nearest(b"x" * 32), holdfast.InvalidArgument, "fingerprint is"),  # type: ignore[arg-type]
    "k": (lambda r: r.nearest(GOOD.fingerprint, 0), holdfast.InvalidArgument, "k=0"),
    "k bool": (lambda r: r.nearest(GOOD.fingerprint, True), holdfast.InvalidArgument, "k is an"),
    "strict": (
        lambda r: r.lookup_startup_mode(GOOD.fingerprint, strict=1),  # type: ignore[arg-type]
        holdfast.InvalidArgument,
        "strict is a bool",
    ),
}


def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    """Each is refused by a typed error that says what is wrong, and the worker lives on."""
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("m")
        registry.save(GOOD)
        pid, content = worker_pid(engine, "m"), (tmp_path / "m.zsm").read_bytes()
        for name, (call, error, text) in BAD.items():
            with pytest.raises(error, match=text) as caught:
                call(registry)
            assert type(caught.value) is error, name
        assert registry.list_all() == [GOOD]
        assert worker_pid(engine, "m") == pid
        assert (tmp_path / "m.zsm").read_bytes() == content


def test_opening(tmp_path: Path) -> None:
    """Absent, foreign, of another kind, damaged: each is told apart, and left as it is."""
    (tmp_path / "foreign.zsm").write_bytes(b"something else")
    (tmp_path / "damaged.zsm").write_bytes(b"ZSM\x01" + b"\xff" * 60)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.zsm")}
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(holdfast.StoreNotFound):
            engine.registry("absent", create=False)
        with pytest.raises(holdfast.InvalidFormat):
            engine.registry("foreign")
        with pytest.raises(holdfast.StoreCorrupt) as caught:
            engine.registry("damaged")
        assert caught.value.offset == 4 + 8 + 32
        engine.fold("f")
        with pytest.raises(holdfast.WrongKind):
            engine.registry("f")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        engine.registry("e", path=elsewhere / "models.bin").save(GOOD)
        assert (elsewhere / "models.bin").read_bytes()[:4] == b"ZSM\x01"
        engine.registry("gone").save(GOOD)
        engine.drop("gone")
        assert not list(tmp_path.glob("gone*"))
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.zsm")} == before
