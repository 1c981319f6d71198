"""The demonstration: real files into a fold and a vector store, then processes killed meanwhile.

A warm store samples what the engine's processes use, all the while.

Every promise is checked on the machine it runs on, and by comparing contents, not by trusting
replies: what the fold holds after each step is compared with what was read from the files or
acknowledged to the writers. The directory that is followed is only read.
"""

import bisect
import itertools
import os
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from holdfast.engine import Engine, open_engine
from holdfast.following import Follower, Listing, list_files
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.limits import MIB
from holdfast.handles.fold import absolute
from holdfast.indexed import make_index
from holdfast.resemblance import compare_files
from holdfast.sampling import Sampler, examine
from holdfast.schemas import compare_schemas
from holdfast.storm import ROUNDS, WRITERS, Storm, milliseconds

_PREFIXES = 20
_PREFIX_BYTES_MAX = 64 * MIB
_NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


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
        if not console.is_terminal:  # plain lines, however long
            console.width, table.box = 1000, None
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
            with open_engine(self._stores) as engine:
                first = self._follow(engine)
            with open_engine(self._stores) as engine:
                sampler = Sampler(engine)
                sampler.start()
                self._resume(engine, first)
                self._look_up(engine)
                self._export_and_import(engine)
                self._resemble(engine)
                self._index(engine)
                self._find_models(engine)
                storm = Storm(engine, "storm", ROUNDS)
                storm.rage(self._bar("killing", len(ROUNDS)))
                self._look_at_samples(sampler)
            with open_engine(self._stores) as engine:
                self._count_losses(engine, storm)

    def _bar(self, title: str, total: int) -> Callable[[int], None]:
        task = self._bars.add_task(title, total=total)
        return lambda count: self._bars.advance(task, count)

    def _list(self) -> Listing:
        directory = self._report.directory
        if self._standard:
            return list_files(directory, self._work, suffix=".py", skip=_NOT_STANDARD)
        return list_files(directory, self._work)

    def _follow(self, engine: Engine) -> dict[str, int]:
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

    def _resume(self, engine: Engine, first: dict[str, int]) -> None:
        """The second run: only what changed since the first."""
        began = time.perf_counter()
        fold = engine.fold("files", create=False)
        listing = self._list()
        applied = self._follower.follow(fold, listing, lambda _: None)
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

    def _look_up(self, engine: Engine) -> None:
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
        median = milliseconds(statistics.median(times)) if times else None
        self._report.sections["lookups"] = {
            "prefixes": len(times),
            "entries": entries,
            "median_ms": median,
        }
        text = f"{len(times)} prefixes, {entries:,} entries, median {median} ms"
        self._line("looked up by prefix", text)
        self._promise("a prefix finds exactly its keys, in order", right)

    def _export_and_import(self, engine: Engine) -> None:
        fold = engine.fold("files")
        artifact = os.path.join(self._work, "artifact")
        began = time.perf_counter()
        exported = fold.export(artifact)
        middle = time.perf_counter()
        copy = engine.import_fold("copy", artifact)
        end = time.perf_counter()
        pairs = itertools.zip_longest(fold.scan(), copy.scan())
        same = copy.cursor() == fold.cursor() and all(one == other for one, other in pairs)
        self._report.sections["artifact"] = {
            "entries": exported.entries,
            "bytes": sum(file.size for file in exported.files),
            "export_seconds": round(middle - began, 3),
            "import_seconds": round(end - middle, 3),
        }
        text = f"{exported.entries:,} entries in {middle - began:.2f} s and {end - middle:.2f} s"
        self._line("exported, imported", text)
        self._promise("an import equals what was exported", same)

    def _resemble(self, engine: Engine) -> None:
        """The files' vectors: which ones resemble one another."""
        listing = self._list()
        found = compare_files(engine, listing, self._bar("comparing", len(listing.files)))
        if found is None:
            return
        self._report.sections["resemblance"] = asdict(found)
        self._line(
            "vectors ingested", f"{found.files:,} in {found.ingest_s:.2f} s, hashing included"
        )
        self._line(f"resembling {found.asked}", ", ".join(found.resembling))
        self._line("elsewhere, below 20 kB", ", ".join(found.resembling_small))
        sizes = f"{found.bytes_before:,} bytes to {found.bytes_after:,}"
        self._line("larger ones deleted, compacted", sizes)
        self._promise("the nearest files are the nearest", found.right)
        self._promise("a branch and its parent do not disturb each other", found.apart)
        self._promise("compaction loses nothing", found.compacted_right)

    def _index(self, engine: Engine) -> None:
        """The files' vectors in an index whose worker is killed between snapshot and log."""
        if "resemblance" not in engine.stores():
            return
        found = make_index(engine, engine.vectors("resemblance"))
        if found is None:
            return
        self._report.sections["index"] = asdict(found)
        self._line(
            "vectors indexed", f"{found.rows:,} in {found.insert_s:.2f} s, snapshots included"
        )
        took = f"{milliseconds(found.recovered_s)} ms, {found.log_bytes:,} bytes of log replayed"
        self._line("index worker killed, back in", took)
        self._promise("an index comes back whole", found.complete)
        self._promise("an index finds what the vector store finds", found.same)
        self._promise("a checkpoint takes the log into the snapshot", found.checkpointed)

    def _look_at_samples(self, sampler: Sampler) -> None:
        """What the processes used all the while, as the warm store gives it back."""
        found = examine(sampler.stop(), sampler.points, sampler.failed)
        if found is None:
            return
        self._report.sections["samples"] = asdict(found)
        total = f"{found.samples:,} points of {found.processes} processes"
        self._line("processes sampled", f"{total} over {found.seconds:.1f} s")
        self._line("busiest process", f"{found.busiest}; largest {found.largest_mib:.0f} MiB")
        self._line("most similar moments", ", ".join(found.similar))
        self._promise("no sample is refused", found.failed == 0)
        self._promise("a range gives a series back as it was sampled", found.range_right)
        self._promise("the newest point as of a moment is the right one", found.as_of_right)
        self._promise("the nearest moments are the nearest", found.nearest_right)

    def _find_models(self, engine: Engine) -> None:
        """Models of real tables, found by their schemas."""
        found = compare_schemas(engine, self._list())
        self._report.sections["schemas"] = asdict(found)
        tables = f"{found.files:,} files and {found.processes:,} processes"
        self._line("models saved", f"of tables of {tables}, then their worker killed")
        distance = "-" if found.near_distance is None else f"{found.near_distance:.3f}"
        modes = f"{found.exact}, {found.near} at {distance}, {found.far}"
        self._line("same, similar, other schema", modes)
        self._promise("a schema finds its model, and no other", found.right)

    def _count_losses(self, engine: Engine, storm: Storm) -> None:
        lost = storm.lost(engine.fold("storm", create=False))
        fields = storm.fields()
        self._report.sections["storm"] = fields | {"acknowledged_writes_lost": lost}
        calls = f"{fields['calls_made']:,} by {WRITERS} writers in {storm.seconds:.1f} s"
        self._line("calls while killing", calls)
        self._line("calls failed", str(fields["calls_failed"]))
        total = f"{fields['acknowledged_writes']:,}"
        self._line("acknowledged writes lost", f"{lost} of {total}, after reopening")
        for role, times in storm.replies_s.items():
            if times:
                median, most = milliseconds(statistics.median(times)), milliseconds(max(times))
                text = f"first reply after {median} ms median, {most} ms at most"
                self._line(f"{role} killed {len(times)} times", text)
        self._promise("every kill was survived", storm.survived)
        self._promise("no call fails", fields["calls_failed"] == 0)
        self._promise("a write is read back", fields["acknowledged_writes_unseen"] == 0)
        self._promise("no acknowledged write is lost", lost == 0)

    def _line(self, name: str, text: str) -> None:
        self._report.lines.append((name, text))

    def _promise(self, promise: str, kept: bool) -> None:
        self._report.promises[promise] = kept
