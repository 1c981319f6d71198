"""Bad input and bad surroundings: a clear typed error each, and nothing lost."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast import Cursor, Delete, Purge, Put, Version
from holdfast.formats.limits import KEY_BYTES_MAX, NAME_CHARS_MAX, VALUE_BYTES_MAX
from tests.process.harness import (
    GONE_S,
    at,
    is_alive,
    kill,
    let_others_in,
    none,
    put,
    script,
    supervisor_pid,
    until,
    value_of,
    wait_until_none,
    worker_pid,
)

MIB = 1 << 20
SURROGATE = "a\ud800b"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[holdfast.Engine]:
    """An engine with one store of one entry; at the end both are as they were."""
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("a")
        fold.apply([Put("k", b"value", Version.from_u64(7))], at(7))
        before = supervisor_pid(engine), worker_pid(engine, "a")
        yield engine
        assert fold.range() == [holdfast.KvEntry("k", b"value", Version.from_u64(7))]
        assert fold.cursor() == at(7)
        assert (supervisor_pid(engine), worker_pid(engine, "a")) == before, "none died of it"


def refused(
    call: Callable[[], object],
    error: type[Exception] = holdfast.InvalidArgument,
    match: str | None = None,
) -> None:
    """The call raises exactly this error."""
    with pytest.raises(error, match=match) as caught:
        call()
    assert type(caught.value) is error, repr(caught.value)


def anything(value: object) -> Any:
    """A value that the types forbid."""
    return value


class TestLimits:
    def test_a_key_over_the_limit(self, engine: holdfast.Engine) -> None:
        """The error names the update and the limit; the limit itself is fine."""
        fold = engine.fold("a")
        for key in ("x" * (KEY_BYTES_MAX + 1), "ü" * (KEY_BYTES_MAX // 2 + 1)):
            updates = [[Put("k", b""), Put(key, b"")], [Put("k", b""), Delete(key)],
                       [Put("k", b""), Purge(key)]]  # fmt: skip
            for batch in updates:
                refused(
                    lambda batch=batch: fold.apply(batch, none),  # type: ignore[misc] # a lambda's default
                    holdfast.LimitExceeded,
                    rf"updates\[1\].key.*{KEY_BYTES_MAX}",
                )
            for call in (
                fold.get,
                fold.range,
                lambda key: fold.get_many(["k", key]),
                lambda key: fold.stale_keys([key]),
                lambda key: list(fold.scan(key)),
            ):
                refused(lambda c=call, k=key: c(k), holdfast.LimitExceeded)  # type: ignore[misc] # a lambda's default
        longest = "x" * KEY_BYTES_MAX
        put(fold, longest)
        assert value_of(fold, longest) == b"value"
        fold.apply([Delete(longest)], at(7))

    def test_a_value_over_the_limit(self, engine: holdfast.Engine) -> None:
        """What could not be read back is refused; the largest allowed value is read back."""
        fold = engine.fold("a")
        refused(
            lambda: fold.apply([Put("k", b""), Put("big", bytes(VALUE_BYTES_MAX + 1))], none),
            holdfast.LimitExceeded,
            rf"updates\[1\].value.*{VALUE_BYTES_MAX}",
        )
        put(fold, "big", bytes(VALUE_BYTES_MAX))
        assert value_of(fold, "big") == bytes(VALUE_BYTES_MAX)
        fold.apply([Delete("big")], at(7))

    def test_a_token_over_the_limit(self, engine: holdfast.Engine) -> None:
        """Tokens are checked where they are made; numbers have to fit."""
        assert engine.fold("a")
        for kind in (Version, Cursor):
            refused(lambda k=kind: k.from_bytes(bytes(11)), holdfast.LimitExceeded)  # type: ignore[misc] # a lambda's default
            refused(lambda k=kind: k.from_u64(1 << 64), holdfast.LimitExceeded)  # type: ignore[misc] # a lambda's default
            refused(lambda k=kind: k.from_u64(-1), holdfast.LimitExceeded)  # type: ignore[misc] # a lambda's default


WRONG: list[object] = [None, 7, 1.5, b"bytes", ["list"], {"a": 1}, object(), str, Ellipsis]


def not_a(*kinds: type) -> list[object]:
    """Values that are none of these kinds."""
    return [value for value in WRONG if not isinstance(value, kinds)]


class TestWrongTypes:
    def test_updates(self, engine: holdfast.Engine) -> None:
        """Whatever is in a batch in the wrong place, the update is named."""
        fold = engine.fold("a")
        good = Put("other", b"")
        bad: list[Any] = [*WRONG, "text", Put, holdfast.KvEntry("k", b"")]
        bad += [Put(anything(key), b"") for key in not_a(str)]
        bad += [Delete(anything(key)) for key in not_a(str)]
        bad += [Put("k", anything(value)) for value in [*not_a(bytes), "text"]]
        bad += [Put("k", b"", anything(version)) for version in WRONG]
        bad += [Purge("k", anything(version)) for version in WRONG]
        for update in bad:
            refused(lambda u=update: fold.apply([good, u], none), match=r"updates\[1\]")  # type: ignore[misc] # a lambda's default

    def test_batches_and_cursors(self, engine: holdfast.Engine) -> None:
        """Neither is guessed at."""
        fold = engine.fold("a")
        for updates in (None, 7, 1.5, object(), Put("k", b"")):
            refused(lambda u=updates: fold.apply(anything(u), none))  # type: ignore[misc] # a lambda's default
        for cursor in [*not_a(type(None)), Version.none()]:
            refused(lambda c=cursor: fold.apply([], anything(c)))  # type: ignore[misc] # a lambda's default
        for stale in [*WRONG, "Accept", ""]:
            refused(lambda s=stale: fold.apply([], none, stale=anything(s)))  # type: ignore[misc] # a lambda's default

    def test_keys(self, engine: holdfast.Engine) -> None:
        """A key is text, and several keys are not one."""
        fold = engine.fold("a")
        for key in not_a(str):
            refused(lambda k=key: fold.get(anything(k)))  # type: ignore[misc] # a lambda's default
            refused(lambda k=key: fold.range(anything(k)))  # type: ignore[misc] # a lambda's default
            refused(lambda k=key: fold.scan(anything(k)))  # type: ignore[misc] # a lambda's default
            refused(lambda k=key: fold.get_many(["k", anything(k)]), match=r"keys\[1\]")  # type: ignore[misc] # a lambda's default
            refused(lambda k=key: fold.stale_keys(["k", anything(k)]), match=r"keys\[1\]")  # type: ignore[misc] # a lambda's default
        for keys in (None, 7, "text", object()):
            refused(lambda k=keys: fold.get_many(anything(k)))  # type: ignore[misc] # a lambda's default
            refused(lambda k=keys: fold.stale_keys(anything(k)))  # type: ignore[misc] # a lambda's default

    def test_limits_of_a_range(self, engine: holdfast.Engine) -> None:
        """Only a number of entries."""
        fold = engine.fold("a")
        for limit in [*not_a(int, type(None)), -1]:
            refused(lambda x=limit: fold.range("", limit=anything(x)))  # type: ignore[misc] # a lambda's default
        refused(lambda: fold.range("", limit=1 << 70), holdfast.LimitExceeded)
        assert fold.range("", limit=0) == []

    def test_times(self, engine: holdfast.Engine, tmp_path: Path) -> None:
        """Every timeout is a positive number of seconds."""
        fold = engine.fold("a")
        for timeout in [*not_a(int, float, type(None)), 0, -1, float("nan"), float("inf"), True]:
            calls: list[Callable[..., object]] = [
                lambda **t: fold.get("k", **t),
                lambda **t: fold.apply([], none, **t),
                lambda **t: engine.fold("a", **t),
                lambda **t: engine.status("a", **t),
                lambda **t: engine.restart("a", **t),
                lambda **t: engine.fold("c", interval=t["timeout"]),
                engine.processes,
                engine.health,
                lambda **t: holdfast.open(tmp_path, **t),
                lambda **t: holdfast.open(tmp_path, hung_after=t["timeout"]),
            ]
            for call in calls:
                refused(lambda c=call, t=timeout: c(timeout=t), match="timeout|interval|hung_after")  # type: ignore[misc] # a lambda's default

    def test_options(self, engine: holdfast.Engine) -> None:
        """An option that is none names what it may be."""
        for durability in [*not_a(type(None)), "Always", ""]:
            refused(lambda d=durability: engine.fold("c", durability=anything(d)), match="durab")  # type: ignore[misc] # a lambda's default
        for create in [*WRONG, "yes", 1]:
            refused(lambda c=create: engine.fold("c", create=anything(c)), match="create")  # type: ignore[misc] # a lambda's default
        for path in [*not_a(type(None)), "", "nul\0"]:
            refused(lambda p=path: engine.fold("c", path=anything(p)), match="path")  # type: ignore[misc] # a lambda's default

    def test_directories(self, engine: holdfast.Engine) -> None:
        """Of engines, exports and imports."""
        fold = engine.fold("a")
        for path in [*WRONG, "", "nul\0"]:
            refused(lambda p=path: holdfast.open(anything(p)), match="path")  # type: ignore[misc] # a lambda's default
            refused(lambda p=path: fold.export(anything(p)), match="path")  # type: ignore[misc] # a lambda's default
            refused(lambda p=path: engine.import_fold("c", anything(p)), match="path")  # type: ignore[misc] # a lambda's default

    def test_lone_surrogates(self, engine: holdfast.Engine, tmp_path: Path) -> None:
        """Text that no UTF-8 can hold is refused wherever text is taken."""
        fold = engine.fold("a")
        for call in (
            lambda: fold.apply([Put("k", b""), Put(SURROGATE, b"")], none),
            lambda: fold.apply([Put("k", b""), Delete(SURROGATE)], none),
            lambda: fold.get(SURROGATE),
            lambda: fold.get_many(["k", SURROGATE]),
            lambda: fold.range(SURROGATE),
            lambda: fold.stale_keys([SURROGATE]),
            lambda: fold.scan(SURROGATE),
            lambda: fold.export(str(tmp_path / SURROGATE)),
            lambda: engine.fold("c", path=str(tmp_path / SURROGATE)),
            lambda: holdfast.open(str(tmp_path / SURROGATE)),
        ):
            refused(call)
        refused(lambda: engine.fold(SURROGATE), holdfast.InvalidName)


class TestNames:
    BAD = ("", ".", "..", "a/b", "/a", "a\\b", "nul\0", "a b", "ü", "-a", "_a", ".a", "a.", "a\n",
           "x" * (NAME_CHARS_MAX + 1), "con:", "a*", *not_a(str))  # fmt: skip

    @pytest.mark.parametrize("name", BAD, ids=range(len(BAD)))
    def test_a_name_that_is_no_safe_file_name(
        self, engine: holdfast.Engine, tmp_path: Path, name: Any
    ) -> None:
        """Every call that takes a name refuses it, and no file appears."""
        before = sorted(tmp_path.rglob("*"))
        for call in (
            engine.fold,
            engine.status,
            engine.restart,
            engine.drop,
            lambda n: engine.import_fold(n, tmp_path / "x"),
        ):
            refused(lambda c=call: c(name), holdfast.InvalidName)  # type: ignore[misc] # a lambda's default
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["b", "B9", "a.b-c_d", "x" * NAME_CHARS_MAX, "9"])
    def test_a_name_that_is_one(self, tmp_path: Path, name: str) -> None:
        """The longest and the oddest allowed names work."""
        with holdfast.open(tmp_path) as engine:
            put(engine.fold(name), "k")
            assert engine.stores() == {name: "fold"}

    def test_a_name_that_differs_in_case_alone(self, engine: holdfast.Engine) -> None:
        """Some file systems cannot tell them apart, so none has to."""
        refused(lambda: engine.fold("A"), holdfast.InvalidName, "case")
        assert engine.stores() == {"a": "fold"}

    @pytest.mark.parametrize("suffix", [".rvf", ".warm", ".iqdb", ".zsm"])
    def test_a_name_of_a_store_of_another_kind(
        self, engine: holdfast.Engine, tmp_path: Path, suffix: str
    ) -> None:
        """A name belongs to one store, whatever its kind; its file is not touched."""
        path = tmp_path / "data" / f"other{suffix}"
        path.write_bytes(b"theirs")
        refused(lambda: engine.fold("other"), holdfast.WrongKind, "other")
        assert path.read_bytes() == b"theirs"
        assert not (tmp_path / "data" / "other.snap").exists()

    def test_a_store_that_is_not_there(self, engine: holdfast.Engine) -> None:
        """Asking for it does not make it."""
        for call in (
            lambda: engine.fold("none", create=False),
            lambda: engine.status("none"),
            lambda: engine.drop("none"),
            lambda: engine.restart("none"),
        ):
            refused(call, holdfast.StoreNotFound, "none")
        assert engine.stores() == {"a": "fold"}

    def test_options_that_conflict(self, engine: holdfast.Engine) -> None:
        """A store that is open is not opened in another way; what it has is named."""
        refused(lambda: engine.fold("a", durability="never"), holdfast.OptionsConflict, "'always'")
        refused(lambda: engine.fold("a", path="/tmp/b.snap"), holdfast.OptionsConflict, "path")
        assert engine.fold("a", durability="always")

    @pytest.mark.parametrize("durability", [None, "always", "never"])
    def test_an_interval_of_another_durability(
        self, engine: holdfast.Engine, durability: Any
    ) -> None:
        """It says nothing there, so it is refused, also where the store is open; both are named."""
        for name in ("a", "new"):
            refused(
                lambda name=name: engine.fold(name, durability=durability, interval=0.7),  # type: ignore[misc] # a lambda's default
                holdfast.InvalidArgument,
                f"interval=0.7.*durability={durability!r}",
            )
        assert engine.stores() == {"a": "fold"}

    def test_an_interval_of_numpys(self, engine: holdfast.Engine) -> None:
        """It is a number of seconds like any other."""
        engine.fold("often", durability="interval", interval=np.float64(0.5))
        assert engine.fold("often", durability="interval", interval=0.5).status().entries == 0

    def test_intervals_that_conflict(self, engine: holdfast.Engine) -> None:
        """The option is named as its user wrote it."""
        engine.fold("often", durability="interval", interval=0.5)
        refused(
            lambda: engine.fold("often", durability="interval", interval=0.7),
            holdfast.OptionsConflict,
            r"with interval=0\.5, not 0\.7",
        )

    def test_a_file_that_is_no_fold(self, engine: holdfast.Engine, tmp_path: Path) -> None:
        """A foreign file is refused as it is."""
        path = tmp_path / "data" / "foreign.snap"
        path.write_bytes(b"GIF89a" + bytes(100))
        refused(lambda: engine.fold("foreign"), holdfast.InvalidFormat, "foreign")
        assert path.read_bytes() == b"GIF89a" + bytes(100)

    def test_a_store_that_is_a_directory(self, engine: holdfast.Engine, tmp_path: Path) -> None:
        """It is no store of anybody's, and stays."""
        (tmp_path / "data" / "folder.snap").mkdir()
        refused(lambda: engine.fold("folder"), holdfast.InvalidArgument, "regular file")


class TestSurroundings:
    def test_a_directory_that_is_a_file(self, tmp_path: Path) -> None:
        """Neither it nor anything below it is a directory."""
        (tmp_path / "file").write_text("theirs", encoding="ascii")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            refused(lambda p=path: holdfast.open(p), holdfast.StoreIOError, "ENOTDIR")  # type: ignore[misc] # a lambda's default
        assert (tmp_path / "file").read_text(encoding="ascii") == "theirs"

    def test_a_directory_that_disappears(self, tmp_path: Path) -> None:
        """Calls that need it say so, in an error of the tree."""
        directory = tmp_path / "data"
        with holdfast.open(directory) as engine:
            put(engine.fold("a"), "k")
            shutil.rmtree(directory)
            for call in (engine.stores, lambda: engine.fold("b"), lambda: engine.status("a")):
                with pytest.raises(holdfast.HoldfastError):
                    call()

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_a_directory_of_another_user(self, tmp_path: Path) -> None:
        """Who may not write it cannot open it, and is told why."""
        with holdfast.open(tmp_path / "used") as engine:
            put(engine.fold("a"), "k")
        (tmp_path / "fresh").mkdir()
        for path in tmp_path.iterdir():
            let_others_in(path)
        for name in ("fresh", "used", "none"):
            source = script("""
                holdfast.open  # loads what a stranger may not be able to read
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
                try:
                    holdfast.open(sys.argv[1])
                except holdfast.HoldfastError as error:
                    print(type(error).__name__, isinstance(error, OSError), error)
            """)  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-c", source, str(tmp_path / name)],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.stderr == ""
            assert done.stdout.startswith(("StoreReadOnly True", "EngineUnavailable True"))
            assert str(tmp_path / name) in done.stdout
        with holdfast.open(tmp_path / "used") as engine:
            assert value_of(engine.fold("a"), "k") == b"value"


@contextlib.contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own at ``path``."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


needs_mount = pytest.mark.skipif(
    os.getuid() != 0 or sys.platform != "linux", reason="only root can mount a file system"
)


def remount(path: Path, options: str) -> None:
    """Change a mounted file system's options, once nobody writes to it any more."""
    command = ["mount", "-o", f"remount,{options}", str(path)]
    until(lambda: not subprocess.run(command, capture_output=True, check=False).returncode, options)


@needs_mount
class TestReadOnly:
    def test_a_read_only_directory_cannot_be_opened(self, tmp_path: Path) -> None:
        """Neither fresh nor used; it opens when it can be written again."""
        with mounted(tmp_path / "m") as path:
            with holdfast.open(path / "used") as engine:
                put(engine.fold("a"), "k")
            remount(path, "ro")
            for name in ("used", "fresh"):
                refused(lambda n=name: holdfast.open(path / n), holdfast.StoreReadOnly, "EROFS")  # type: ignore[misc] # a lambda's default
            remount(path, "rw")
            with holdfast.open(path / "used") as engine:
                assert value_of(engine.fold("a"), "k") == b"value"

    def test_a_read_only_store_elsewhere_cannot_be_opened(self, tmp_path: Path) -> None:
        """The engine's own directory is fine; the store's is not."""
        with mounted(tmp_path / "m") as path, holdfast.open(tmp_path / "data") as engine:
            put(engine.fold("a", path=path / "a.snap"), "k")
            engine.restart("a")
            with holdfast.open(tmp_path / "other") as other:
                engine.close()
                remount(path, "ro")
                for name in ("a.snap", "b.snap"):
                    refused(
                        lambda n=name: other.fold("a", path=path / n),  # type: ignore[misc] # a lambda's default
                        holdfast.StoreReadOnly,
                        "EROFS",
                    )
                put(other.fold("mine"), "k")
                remount(path, "rw")
                assert value_of(other.fold("a", path=path / "a.snap"), "k") == b"value"


def fill(fold: holdfast.Fold, start: int = 0) -> int:
    """Put 64 KiB values until the disk is full; the number of the one that failed."""
    for number in range(start, start + 10_000):
        try:
            put(fold, f"{number:05}", bytes([number % 256]) * 65536)
        except holdfast.StoreFull as error:
            failure = error
            break
    else:
        pytest.fail("it never got full")
    assert failure.path == fold.path
    assert isinstance(failure, OSError)
    return number


def check_whole(fold: holdfast.Fold, count: int) -> None:
    """Everything acknowledged is there, and nothing that was refused."""
    entries = list(fold.scan())
    assert [entry.key for entry in entries] == [f"{number:05}" for number in range(count)]
    for number, entry in enumerate(entries):
        assert entry.value == bytes([number % 256]) * 65536


class TestFull:
    @needs_mount
    def test_a_full_disk(self, tmp_path: Path) -> None:
        """A write that does not fit is refused whole; reads go on; room brings service back."""
        with (
            mounted(tmp_path / "m", "-o", "size=4m") as path,
            holdfast.open(tmp_path / "data") as engine,
        ):
            fold = engine.fold("a", path=path / "a.snap")
            worker = worker_pid(engine, "a")
            (path / "ballast").write_bytes(bytes(MIB))
            count = fill(fold)
            assert count > 10
            with pytest.raises(holdfast.StoreFull):
                fold.compact()
            with pytest.raises(holdfast.StoreFull):
                fold.export(str(path / "artifact"))
            assert not (path / "artifact").exists()
            check_whole(fold, count)
            (path / "ballast").unlink()
            put(fold, f"{count:05}", bytes([count % 256]) * 65536)
            check_whole(fold, count + 1)
            assert worker_pid(engine, "a") == worker, "the same worker all along"

    @needs_mount
    def test_a_crash_on_a_full_disk(self, tmp_path: Path) -> None:
        """Recovery needs no room: the store serves its reads, and its writes when it can."""
        with (
            mounted(tmp_path / "m", "-o", "size=4m") as path,
            holdfast.open(tmp_path / "data") as engine,
        ):
            fold = engine.fold("a", path=path / "a.snap")
            (path / "ballast").write_bytes(bytes(MIB))
            count = fill(fold)
            kill(worker_pid(engine, "a"))
            check_whole(fold, count)
            assert fill(fold, count) == count
            kill(supervisor_pid(engine))
            check_whole(fold, count)
            (path / "ballast").unlink()
            put(fold, f"{count:05}", bytes([count % 256]) * 65536)
            check_whole(fold, count + 1)

    @needs_mount
    def test_a_full_engine_directory(self, tmp_path: Path) -> None:
        """Opening, and making a store, on a disk without room: typed errors, and then service."""
        with mounted(tmp_path / "m", "-o", "size=1m") as path:
            ballast = path / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))
            with pytest.raises(holdfast.HoldfastError), holdfast.open(path) as engine:
                put(engine.fold("a"), "k")
            ballast.unlink()
            with holdfast.open(path) as engine:
                put(engine.fold("a"), "k")
                assert value_of(engine.fold("a"), "k") == b"value"

    @pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
    def test_a_limit_on_the_size_of_files(self, tmp_path: Path) -> None:
        """As a full disk, by another reason of the operating system's."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            worker = worker_pid(engine, "a")
            unlimited = resource.RLIM_INFINITY
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (MIB, unlimited))
            count = fill(fold)
            assert count > 10
            check_whole(fold, count)
            assert is_alive(worker)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (unlimited, unlimited))
            put(fold, f"{count:05}", bytes([count % 256]) * 65536)
            check_whole(fold, count + 1)
            assert worker_pid(engine, "a") == worker, "the same worker all along"


def test_a_closed_engine_refuses_before_it_looks(tmp_path: Path) -> None:
    """Also a bad argument finds a closed engine, or its own error, but no process."""
    engine = holdfast.open(tmp_path)
    fold = engine.fold("a")
    engine.close()
    for call in (lambda: fold.get(anything(7)), lambda: engine.fold("a/b"), lambda: fold.get("k")):
        with pytest.raises((holdfast.EngineClosed, holdfast.InvalidArgument)):
            call()
    wait_until_none(tmp_path, GONE_S)


def test_one_file_under_two_names(tmp_path: Path) -> None:
    """The second name is refused at once, and the error says which store has the file."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        with pytest.raises(holdfast.StoreLocked, match="in this engine as store 'a'") as caught:
            engine.fold("b", path=fold.path)
        assert (caught.value.store, caught.value.pid) == ("a", worker_pid(engine, "a"))
        put(fold, "k")


def test_a_destination_that_is_taken(tmp_path: Path) -> None:
    """Export and import refuse it by the same error, whatever the kind and whether it is open."""
    with holdfast.open(tmp_path / "data") as engine:
        fold, warm = engine.fold("a"), engine.warm("w", dimension=1)
        put(fold, "k")
        fold.export(tmp_path / "artifact")
        for export in (fold.export, warm.export):
            with pytest.raises(holdfast.StoreExists):
                export(tmp_path / "artifact")
        with pytest.raises(holdfast.StoreExists):
            engine.import_fold("a", tmp_path / "artifact")
        put(engine.fold("b"), "other")
    with holdfast.open(tmp_path / "data") as engine:
        with pytest.raises(holdfast.StoreExists):
            engine.import_fold("b", tmp_path / "artifact")
        assert value_of(engine.fold("b"), "other") == b"value"


def test_an_interpreter_that_may_not_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a supervisor there is no engine: that is the error, and not one of the directory."""
    program = tmp_path / "python"
    program.write_text("no program")
    for path in (program, tmp_path / "absent"):
        monkeypatch.setattr(sys, "executable", str(path))
        with pytest.raises(holdfast.EngineUnavailable, match=f"with '{path}'") as caught:
            holdfast.open(tmp_path / "data")
        assert type(caught.value) is holdfast.EngineUnavailable
    monkeypatch.undo()
    with holdfast.open(tmp_path / "data") as engine:
        put(engine.fold("a"), "k")
