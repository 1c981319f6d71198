"""The demonstration: real files into a fold, then its processes killed while writers run.

Every promise is checked on the machine it runs on, and by comparing contents, not by trusting
replies: what the fold holds after each step is compared with what was read from the files or
acknowledged to the writers. The directory that is followed is only read.
"""

import bisect
import hashlib
import os
import shutil
import signal
import stat
import statistics
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import holdfast
from holdfast import Cursor, Delete, Fold, HoldfastError, Put, Version
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.limits import MIB, VALUE_BYTES_MAX
from holdfast.handles.fold import absolute

T = TypeVar("T")

_BATCH_FILES = 256
_BATCH_BYTES = 4 * MIB
_COMPARE_FILES = 60  # of the largest size, these still fit into one answer
_PREFIXES = 20
_PREFIX_BYTES_MAX = 64 * MIB
_NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})

_WRITERS = 4
_ROUNDS: tuple[Literal["worker", "supervisor"], ...] = ("worker", "worker", "supervisor") * 4
_WRITES_BETWEEN_KILLS = 25
_STALLED_S = 30.0


# --- following a directory ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to follow, as it was listed."""

    key: str
    path: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Listing:
    """The files of a directory, oldest first, and how many could not be followed."""

    listed_ns: int
    files: list[SourceFile] = field(default_factory=list)
    too_large: int = 0
    unreadable: int = 0
    not_text: int = 0


def list_files(
    directory: str, leave_out: str, *, suffix: str = "", skip: frozenset[str] = frozenset()
) -> Listing:
    """The regular files below ``directory``; links are not followed, ``leave_out`` not entered."""
    listing = Listing(time.time_ns())
    directory = os.path.realpath(directory)

    def count_unreadable(_: OSError) -> None:
        listing.unreadable += 1

    for parent, folders, names in os.walk(directory, onerror=count_unreadable):
        folders[:] = [
            name for name in folders if name not in skip and os.path.join(parent, name) != leave_out
        ]
        for name in names:
            if name.endswith(suffix):
                _list_file(listing, directory, os.path.join(parent, name))
    listing.files.sort(key=lambda file: (file.mtime_ns, file.key))
    return listing


def _list_file(listing: Listing, directory: str, path: str) -> None:
    key = os.path.relpath(path, directory).replace(os.sep, "/")
    try:
        key.encode()
        found = os.lstat(path)
    except UnicodeEncodeError:
        listing.not_text += 1
        return
    except OSError:
        listing.unreadable += 1
        return
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_size > VALUE_BYTES_MAX:
        listing.too_large += 1
        return
    listing.files.append(SourceFile(key, path, found.st_size, max(0, found.st_mtime_ns)))


class Follower:
    """Keeps a fold equal to a directory; remembers digests to check the fold against."""

    def __init__(self) -> None:
        self.digests: dict[str, bytes] = {}
        self.bytes = 0

    def follow(self, fold: Fold, listing: Listing, tick: Callable[[int], None]) -> set[str]:
        """Apply what changed since the fold's cursor; returns the keys put or deleted.

        Files go in the order of their times and each batch moves the cursor, so that a run cut
        short resumes where it was.
        """
        gone = fold.stale_keys(file.key for file in listing.files)
        if gone:
            fold.apply([Delete(key) for key in gone], fold.cursor())
        applied = set(gone)
        for key in gone:
            self.digests.pop(key, None)
        cursor = fold.cursor()
        for batch in _batches(_changed(fold, listing, cursor), _BATCH_FILES):
            updates = [update for file in batch if (update := self._read(listing, file))]
            # A time in the future would hide all changes until then, so the cursor stays behind.
            position = max(cursor.u64 or 0, min(batch[-1].mtime_ns, listing.listed_ns))
            cursor = Cursor.from_u64(position)
            fold.apply(updates, cursor)
            applied.update(update.key for update in updates)
            tick(len(batch))
        return applied

    def _read(self, listing: Listing, file: SourceFile) -> Put | None:
        try:
            with open(file.path, "rb") as source:
                content = source.read(VALUE_BYTES_MAX + 1)
        except OSError:
            listing.unreadable += 1
            return None
        if len(content) > VALUE_BYTES_MAX:  # it grew since it was listed
            listing.too_large += 1
            return None
        self.digests[file.key] = _digest(content)
        self.bytes += len(content)
        return Put(file.key, content, Version.from_u64(file.mtime_ns))

    def agrees_with(self, fold: Fold) -> bool:
        """Whether the fold holds exactly what was read."""
        held = {entry.key: _digest(entry.value) for entry in fold.scan()}
        return held == self.digests


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _changed(fold: Fold, listing: Listing, cursor: Cursor) -> list[SourceFile]:
    """The files whose version is not the one the fold holds."""
    if cursor.is_none:
        return listing.files
    after = cursor.u64 or 0
    # Not only what is newer: files of the cursor's own time may have come or changed since.
    recent = [file for file in listing.files if file.mtime_ns >= after]
    changed, missing = _compare(fold, recent)
    if fold.status().entries + missing < len(listing.files):
        # A file that was moved here keeps its old time; the number of entries gives it away.
        older = [file for file in listing.files if file.mtime_ns < after]
        changed = _compare(fold, older)[0] + changed
    return changed


def _compare(fold: Fold, files: list[SourceFile]) -> tuple[list[SourceFile], int]:
    """The files that the fold holds in another version or not at all; how many not at all."""
    changed, missing = [], 0
    for batch in _batches(files, _COMPARE_FILES):
        held = fold.get_many([file.key for file in batch])
        for file, entry in zip(batch, held, strict=True):
            if entry is None or entry.version.u64 != file.mtime_ns:
                changed.append(file)
                missing += entry is None
    return changed, missing


def _batches(files: Iterable[SourceFile], files_max: int) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) == files_max or size + file.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


# --- the storm ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    """What one caller did; only its own thread writes to it."""

    calls: int = 0
    failed: int = 0
    unseen: int = 0
    """Acknowledged writes that a read after them did not see."""
    acknowledged: list[int] = field(default_factory=list)
    error: str = ""

    def call(self, function: Callable[[], T]) -> T | None:
        """Call and count."""
        self.calls += 1
        try:
            return function()
        except HoldfastError as error:
            self.failed += 1
            self.error = self.error or f"{type(error).__name__}: {error}"
            return None


def _value(writer: int, number: int) -> bytes:
    return b"writer %d, write %d, " % (writer, number) * 8


class Storm:
    """Writers on one fold, whose worker and supervisor are killed under them."""

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._fold = engine.fold(name, durability="always")
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._tallies = [_Tally() for _ in range(_WRITERS)]
        self._probe = _Tally()
        self.replies_s: dict[str, list[float]] = {"worker": [], "supervisor": []}
        self.seconds = 0.0

    def rage(self, tick: Callable[[int], None]) -> None:
        """Run the writers and kill; returns when all is over."""
        threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(_WRITERS)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            for role in _ROUNDS:
                if not self._writers_got_on():
                    break
                self._kill(role)
                tick(1)
            self._writers_got_on()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self.seconds = time.perf_counter() - began

    def _write(self, writer: int) -> None:
        tally = self._tallies[writer]
        number = 0
        while not self._stop.is_set() and not tally.failed:
            number += 1
            value, latest = _value(writer, number), f"latest/{writer}"
            updates = [Put(f"all/{writer}/{number}", value), Put(latest, value)]
            cursor = Cursor.from_u64(number)
            tally.call(lambda: self._fold.apply(updates, cursor))  # noqa: B023 - called at once
            if not tally.failed:
                with self._progress:
                    tally.acknowledged.append(number)
                    self._progress.notify()
                entry = tally.call(lambda: self._fold.get(latest))  # noqa: B023 - called at once
                tally.unseen += entry is None or entry.value != value
        with self._progress:
            self._progress.notify()

    def _writers_got_on(self) -> bool:
        """Wait until every writer has written some more; False when one has failed.

        So each kill meets calls that the one before it did not: a call that is being worked on
        at two deaths is given up, as it may be what killed the workers.
        """
        goals = [len(tally.acknowledged) + _WRITES_BETWEEN_KILLS for tally in self._tallies]

        def ready() -> bool:
            reached = zip(self._tallies, goals, strict=True)
            return self._failed() or all(len(t.acknowledged) >= goal for t, goal in reached)

        with self._progress:
            if not self._progress.wait_for(ready, _STALLED_S):
                self._probe.failed += 1
                self._probe.error = f"a writer got no answer within {_STALLED_S:g} s"
        return not self._failed()

    def _failed(self) -> bool:
        return any(tally.failed for tally in (*self._tallies, self._probe))

    def _kill(self, role: Literal["worker", "supervisor"]) -> None:
        """Kill one process and measure until the first reply of the new worker."""
        processes = self._probe.call(self._engine.processes) or []
        status = self._probe.call(self._fold.status)
        store = self._name if role == "worker" else None
        victims = [p.pid for p in processes if p.role == role and p.store == store]
        if status is None or not victims:
            self._probe.failed += 1
            self._probe.error = self._probe.error or f"no {role} to kill among {processes}"
            return
        began = time.perf_counter()
        os.kill(victims[0], signal.SIGKILL)
        while (reply := self._probe.call(self._fold.status)) is not None:
            if reply.pid != status.pid:
                self.replies_s[role].append(time.perf_counter() - began)
                return

    def lost(self, fold: Fold) -> int:
        """How many acknowledged writes a fold, opened anew, does not hold."""
        held = {entry.key: entry.value for entry in fold.scan()}
        lost = 0
        for writer, tally in enumerate(self._tallies):
            for number in tally.acknowledged:
                lost += held.get(f"all/{writer}/{number}") != _value(writer, number)
            if tally.acknowledged:
                last = tally.acknowledged[-1]
                # A write that failed may have happened: then it is the one behind the last.
                may_be = (_value(writer, last), *[_value(writer, last + 1)] * tally.failed)
                lost += held.get(f"latest/{writer}") not in may_be
        return lost

    def fields(self) -> dict[str, object]:
        """The figures, as JSON has them."""
        tallies = [*self._tallies, self._probe]
        return {
            "writers": _WRITERS,
            "seconds": round(self.seconds, 3),
            "calls_made": sum(tally.calls for tally in tallies),
            "calls_failed": sum(tally.failed for tally in tallies),
            "acknowledged_writes": sum(len(tally.acknowledged) for tally in tallies),
            "acknowledged_writes_unseen": sum(tally.unseen for tally in tallies),
            "first_error": next((tally.error for tally in tallies if tally.error), None),
            **{
                f"{role}_kills": {
                    "count": len(times),
                    "first_reply_ms_median": _ms(statistics.median(times)) if times else None,
                    "first_reply_ms_max": _ms(max(times)) if times else None,
                }
                for role, times in self.replies_s.items()
            },
        }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


# --- the report --------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What the demonstration did, what it promised and whether that was kept."""

    directory: str
    kept_in: str | None
    sections: dict[str, dict[str, object]] = field(default_factory=dict)
    promises: dict[str, bool] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return all(self.promises.values())

    def fields(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            "ok": self.ok,
            "directory": self.directory,
            "kept_in": self.kept_in,
            **self.sections,
            "promises": self.promises,
        }

    def show(self) -> None:
        """Print the report as a table."""
        console = Console(highlight=False)
        table = Table(show_header=False)
        for name, text in self.lines:
            table.add_row(name, text)
        console.print(table)
        for promise, kept in self.promises.items():
            if not kept:
                console.print(f"BROKEN: {promise}", style="bold red", markup=False)
        if self.kept_in is not None:
            print(f"kept in {self.kept_in}")
        if self.ok:
            print(f"all {len(self.promises)} promises kept")


# --- the acts ----------------------------------------------------------------------------------


def run(directory: str | None, *, keep: bool, quiet: bool) -> Report:
    """Run the demonstration on ``directory``; its stores are removed unless ``keep``."""
    source = sysconfig.get_paths()["stdlib"] if directory is None else absolute(directory)
    if not os.path.isdir(source):
        raise InvalidArgument(f"{source!r} is not a directory", path=source)
    work = os.path.realpath(tempfile.mkdtemp(prefix="holdfast-demo-"))
    report = Report(source, work if keep else None)
    try:
        _Demo(report, work, standard=directory is None, quiet=quiet).play()
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
    return report


class _Demo:
    def __init__(self, report: Report, work: str, *, standard: bool, quiet: bool) -> None:
        self._report = report
        self._work = work
        self._stores = os.path.join(work, "stores")
        self._standard = standard
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=Console(stderr=True, quiet=quiet),
            transient=True,
            disable=quiet or not Console(stderr=True).is_terminal,
        )
        self._follower = Follower()

    def play(self) -> None:
        """All acts, in order."""
        with self._bars:
            with holdfast.open(self._stores) as engine:
                first = self._follow(engine)
            with holdfast.open(self._stores) as engine:
                self._resume(engine, first)
                self._look_up(engine)
                self._export_and_import(engine)
                storm = Storm(engine, "storm")
                storm.rage(self._bar("killing", len(_ROUNDS)))
            with holdfast.open(self._stores) as engine:
                self._count_losses(engine, storm)

    def _bar(self, title: str, total: int) -> Callable[[int], None]:
        task = self._bars.add_task(title, total=total)
        return lambda count: self._bars.advance(task, count)

    def _list(self) -> Listing:
        directory = self._report.directory
        if self._standard:
            return list_files(directory, self._work, suffix=".py", skip=_NOT_STANDARD)
        return list_files(directory, self._work)

    def _follow(self, engine: holdfast.Engine) -> dict[str, int]:
        """The first run; returns the times of what it applied, by key."""
        began = time.perf_counter()
        listing = self._list()
        bar = self._bar("following", len(listing.files))
        applied = self._follower.follow(engine.fold("files"), listing, bar)
        seconds = time.perf_counter() - began
        skipped = {
            "too_large": listing.too_large,
            "unreadable": listing.unreadable,
            "name_not_text": listing.not_text,
        }
        size = self._follower.bytes
        self._report.sections["follow"] = {
            "files": len(applied),
            "bytes": size,
            "seconds": round(seconds, 3),
            "skipped": skipped,
        }
        text = f"{len(applied):,} files, {size / 1e6:,.1f} MB in {seconds:.2f} s, each batch synced"
        self._line("followed", text)
        if any(skipped.values()):
            found = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in skipped.items() if n)
            self._line("skipped", found)
        return {file.key: file.mtime_ns for file in listing.files if file.key in applied}

    def _resume(self, engine: holdfast.Engine, first: dict[str, int]) -> None:
        """The second run: only what changed since the first."""
        began = time.perf_counter()
        fold = engine.fold("files", create=False)
        listing = self._list()
        bar = self._bar("resuming", 0)
        applied = self._follower.follow(fold, listing, bar)
        seconds = time.perf_counter() - began
        now = {file.key: file.mtime_ns for file in listing.files}
        changed = {key for key in now | first if now.get(key) != first.get(key)}
        self._report.sections["resume"] = {
            "applied": len(applied),
            "changed": len(changed),
            "seconds": round(seconds, 3),
        }
        self._line("reopened, resumed", f"{len(applied)} changes applied in {1e3 * seconds:.0f} ms")
        self._promise("a second run applies only what changed", applied <= changed)
        self._promise("the fold holds the files' contents", self._follower.agrees_with(fold))

    def _look_up(self, engine: holdfast.Engine) -> None:
        """Ranges of the commonest prefixes, compared with the keys that were put."""
        fold = engine.fold("files")
        sizes = {entry.key.encode(): len(entry.value) for entry in fold.scan()}
        keys = sorted(sizes)
        prefixes = Counter(key.split(b"/")[0] + b"/" if b"/" in key else key[:1] for key in keys)
        times, entries, right = [], 0, True
        for prefix, _ in prefixes.most_common(_PREFIXES):
            begin = bisect.bisect_left(keys, prefix)
            end = bisect.bisect_left(keys, prefix[:-1] + bytes([prefix[-1] + 1]))
            expected = keys[begin:end]
            text = prefix.decode(errors="ignore")
            if text.encode() != prefix or sum(map(sizes.__getitem__, expected)) > _PREFIX_BYTES_MAX:
                continue  # half a character, or more than one wants in one answer
            began = time.perf_counter()
            found = fold.range(text)
            times.append(time.perf_counter() - began)
            entries += len(found)
            right = right and [entry.key.encode() for entry in found] == expected
        median = _ms(statistics.median(times)) if times else None
        self._report.sections["lookups"] = {
            "prefixes": len(times),
            "entries": entries,
            "median_ms": median,
        }
        text = f"{len(times)} prefixes, {entries:,} entries, median {median} ms"
        self._line("looked up by prefix", text)
        self._promise("a prefix finds exactly its keys, in order", right)

    def _export_and_import(self, engine: holdfast.Engine) -> None:
        fold = engine.fold("files")
        artifact = os.path.join(self._work, "artifact")
        began = time.perf_counter()
        exported = fold.export(artifact)
        middle = time.perf_counter()
        copy = engine.import_fold("copy", artifact)
        end = time.perf_counter()
        same = copy.cursor() == fold.cursor() and all(
            one == other for one, other in zip(fold.scan(), copy.scan(), strict=True)
        )
        self._report.sections["artifact"] = {
            "entries": exported.entries,
            "bytes": sum(file.size for file in exported.files),
            "export_seconds": round(middle - began, 3),
            "import_seconds": round(end - middle, 3),
        }
        text = f"{exported.entries:,} entries in {middle - began:.2f} s and {end - middle:.2f} s"
        self._line("exported, imported", text)
        self._promise("an import equals what was exported", same)

    def _count_losses(self, engine: holdfast.Engine, storm: Storm) -> None:
        lost = storm.lost(engine.fold("storm", create=False))
        fields = storm.fields()
        self._report.sections["storm"] = fields | {"acknowledged_writes_lost": lost}
        calls = f"{fields['calls_made']:,} by {_WRITERS} writers in {storm.seconds:.1f} s"
        self._line("calls while killing", calls)
        self._line("calls failed", str(fields["calls_failed"]))
        total = f"{fields['acknowledged_writes']:,}"
        self._line("acknowledged writes lost", f"{lost} of {total}, after reopening")
        for role, times in storm.replies_s.items():
            if times:
                text = f"{_ms(statistics.median(times))} ms median, {_ms(max(times))} ms at most"
                self._line(f"{role} killed {len(times)} times", f"first reply after {text}")
        planned = Counter(_ROUNDS) == {role: len(t) for role, t in storm.replies_s.items()}
        self._promise("every kill was survived", planned)
        self._promise("no call fails", fields["calls_failed"] == 0)
        self._promise("a write is read back", fields["acknowledged_writes_unseen"] == 0)
        self._promise("no acknowledged write is lost", lost == 0)

    def _line(self, name: str, text: str) -> None:
        self._report.lines.append((name, text))

    def _promise(self, promise: str, kept: bool) -> None:
        self._report.promises[promise] = kept
