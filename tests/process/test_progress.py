"""Long work tells how far it is, and holds nobody up."""

import itertools
import threading
from pathlib import Path

import pytest

import holdfast
from holdfast import Progress, Put
from tests.process.harness import at, none, put, value_of, worker_pid

ENTRIES = 60_000
VALUE = bytes(300)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory whose one store has much to compact."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a", durability="never")
        for _ in range(2):
            for start in range(0, ENTRIES, 10_000):
                batch = [Put(f"{n:06}", VALUE) for n in range(start, start + 10_000)]
                fold.apply(batch, at(start))
    return tmp_path


def check(reports: list[Progress]) -> None:
    """Each stage goes forward and stays within its total."""
    assert reports
    for before, after in itertools.pairwise(reports):
        if before.stage == after.stage:
            assert before.done <= after.done
    for report in reports:
        assert report.stage
        assert 0 <= report.done <= report.total


class Users:
    """Threads that read and write, and count what is answered while a compaction runs."""

    def __init__(self, fold: holdfast.Fold, count: int) -> None:
        self.fold = fold
        self.counts = dict.fromkeys(map(str, range(count)), 0)
        self.served_meanwhile = 0
        self._running = threading.Event()
        self._done = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in self.counts]

    def __enter__(self) -> "Users":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        assert not self._errors, self._errors

    def compact(self) -> holdfast.Compacted:
        """Compact while they are at it."""
        self._compactions = self.fold.status().compactions
        reports: list[Progress] = []

        def watch(progress: Progress) -> None:
            reports.append(progress)
            self._running.set()

        compacted = self.fold.compact(progress=watch)
        self._running.clear()
        check(reports)
        return compacted

    def check(self) -> None:
        """What each wrote last is what is there."""
        for name, number in self.counts.items():
            assert value_of(self.fold, f"new/{name}") == str(number).encode()

    def _run(self, name: str) -> None:
        try:
            while not self._done.is_set():
                running = self._running.is_set()
                self._use(name)
                # The compaction had begun before, and had not ended after, these calls.
                if running and self.fold.status().compactions == self._compactions:
                    self.served_meanwhile += 1
        except BaseException as error:
            self._errors.append(error)

    def _use(self, name: str) -> None:
        number = self.counts[name] + 1
        put(self.fold, f"new/{name}", str(number).encode())
        self.counts[name] = number
        assert value_of(self.fold, f"new/{name}") == str(number).encode()
        assert value_of(self.fold, "000007") == VALUE
        assert len(self.fold.range("00001", limit=20)) == 10


def test_compaction_reports_and_others_read_and_write(directory: Path) -> None:
    """Calls are answered while it runs; afterwards the file is smaller and everything is there."""
    with holdfast.open(directory) as engine:
        fold = engine.fold("a", durability="never")
        with Users(fold, 2) as users:
            compacted = users.compact()
            assert compacted.bytes_after < compacted.bytes_before
            for _ in range(50):  # on a busy machine nobody may have come to ask in time
                if users.served_meanwhile:
                    break
                users.compact()
            assert users.served_meanwhile, "nobody was served meanwhile"
        for _ in range(2):
            assert len(fold.range("0")) == ENTRIES
            users.check()
            engine.restart("a")


def test_export_reports_and_shows_one_moment(directory: Path) -> None:
    """What is written while it runs is not in the artifact."""
    with holdfast.open(directory) as engine:
        fold = engine.fold("a", durability="never")
        reports: list[Progress] = []

        def watch(progress: Progress) -> None:
            if not reports:
                threading.Thread(target=put, args=(fold, "later")).start()
            reports.append(progress)

        exported = fold.export(str(directory / "x"), progress=watch)
        check(reports)
        assert exported.entries == ENTRIES
        copy = engine.import_fold("b", directory / "x")
        assert len(copy.range()) == ENTRIES
        assert copy.get("later") is None


def test_a_failing_callback_fails_its_call_alone(directory: Path) -> None:
    """The caller gets the error; neither the worker nor later calls on the engine notice."""
    with holdfast.open(directory) as engine:
        fold = engine.fold("a")
        worker = worker_pid(engine, "a")

        class OfMine(holdfast.HoldfastError):
            """Also an error of the tree may be the callback's own."""

        def fail(error: Exception) -> None:
            def watch(_: Progress) -> None:
                raise error

            with pytest.raises(type(error), match="mine"):
                fold.compact(progress=watch)

        for error in (ZeroDivisionError("mine"), OfMine("mine"), holdfast.InvalidArgument("mine")):
            fail(error)
            for number in range(20):
                assert value_of(fold, f"{number:06}") == VALUE
                assert fold.get("none") is None
        assert worker_pid(engine, "a") == worker


def test_a_callback_may_use_the_engine(directory: Path) -> None:
    """Also on the store that is being compacted."""
    with holdfast.open(directory) as engine:
        fold = engine.fold("a")
        seen: list[object] = []

        def watch(_: Progress) -> None:
            fold.apply([Put("from the callback", b"")], none)
            seen.append(fold.get("from the callback"))

        fold.compact(progress=watch)
        assert seen
        assert None not in seen
