"""Looking at an RVF file without an engine; see ``holdfast.workers.inspection``.

The verdict is that of opening, which decides by the manifest, the segments that it lists, the
ledger beside the file, and the parents whose rows it shows. What opening does not need is checked
as well, such as superseded segments and witnesses, so a file that opens may be damaged all the
same. Where opening refuses, whatever is intact can be read.
"""

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from holdfast.formats.errors import HoldfastError, InvalidFormat, StoreCorrupt
from holdfast.formats.fold_log import Ending
from holdfast.formats.rvf.manifest import Manifest, decode_manifest
from holdfast.formats.rvf.scan import find_intact
from holdfast.formats.rvf.segment import HEADER_BYTES, MAGIC, decode_header, type_name
from holdfast.workers.disk import Disk
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import is_marked_unsynced
from holdfast.workers.standing import STANDINGS, Standing
from holdfast.workers.vector_check import verify_steps
from holdfast.workers.vector_loading import Loaded
from holdfast.workers.vector_messages import Verified
from holdfast.workers.vector_reading import read_what_is_left
from holdfast.workers.vector_recovery import Judgement, evidence, judge

T = TypeVar("T")

VECTORS = "rvf"

# How problems in this file are told.
_PLACED = re.compile(r"offset (\d+): (.*)", re.DOTALL)
_ROWS_AT_ONCE = 4096
_FLOATS_AT_ONCE = 1 << 18


class Verdict(NamedTuple):
    """As for a fold. ``offset`` is None for what lies in no one place, or not in this file."""

    ending: Ending
    offset: int | None
    reason: str = ""


class VectorRow(NamedTuple):
    """A row: ``vector`` is float32, little-endian; ``metadata`` None where the store has none."""

    id: int
    vector: bytes
    metadata: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class VectorReport:
    """What an RVF file holds, or what is named like one.

    ``manifest`` is the one that opening believes; of a file that it refuses, the newest that is
    intact.
    """

    path: str
    verdict: Verdict
    standing: Standing
    opens: bool
    file_bytes: int
    problems: list[str] = field(default_factory=list)
    manifest: Manifest | None = field(default=None, repr=False)
    loaded: Loaded | None = field(default=None, repr=False)

    format: str = VECTORS

    @property
    def live_rows(self) -> int:
        """How many rows can be read."""
        return 0 if self.loaded is None else self.loaded.table.live_rows

    def rows(self) -> Iterator[VectorRow]:
        """The live rows by id: those that are intact."""
        if self.loaded is None:
            return
        table, columns = self.loaded.table, self.loaded.columns
        live = table.live_in_id_order()
        step = max(1, min(_ROWS_AT_ONCE, _FLOATS_AT_ONCE // max(1, table.dimension)))
        for start in range(0, len(live), step):
            rows = live[start : start + step]
            vectors = table.vectors_at(rows).astype("<f4", copy=False)
            metadata: list[dict[str, object] | None] = [None] * len(rows)
            if columns.has_columns:
                metadata = columns.take(rows).to_pylist()
            for id_, vector, values in zip(
                table.ids[rows].tolist(), vectors, metadata, strict=True
            ):
                yield VectorRow(id_, vector.tobytes(), values)

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows; null where no manifest is legible."""
        catalog = None if self.loaded is None else self.loaded.catalog
        identity = None if catalog is None else catalog.identity
        manifest = self.manifest
        return {
            "format": self.format,
            "verdict": str(self.verdict.ending),
            "opens": self.opens,
            "dimension": None if manifest is None else manifest.dimension,
            "metric": None if catalog is None else catalog.record.metric,
            "epoch": None if manifest is None else manifest.epoch,
            "file_id": None if identity is None else identity.file_id.hex(),
            "parent_id": None if identity is None else identity.parent_id.hex(),
            "parent_hash": None if identity is None else identity.parent_hash.hex(),
            "lineage_depth": None if identity is None else identity.depth,
            "live": self.live_rows,
            "deleted": [] if manifest is None else manifest.deleted.tolist(),
            "segments": [] if manifest is None else [list(entry) for entry in manifest.entries],
            "problems": self.problems,
            **self._flaw(),
        }

    def summary(self) -> dict[str, object]:
        """The same with counts in place of lists."""
        kinds = Counter(
            type_name(entry.type)
            for entry in (() if self.manifest is None else self.manifest.entries)
        )
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        fields = self.fields()
        deleted, problems = fields["deleted"], self.problems
        assert isinstance(deleted, list)
        return {
            **fields,
            "deleted": len(deleted),
            "segments": f"{kinds.total()} ({listed})" if listed else 0,
            "problems": len(problems),
        }

    def figures(self) -> dict[str, object]:
        """What matters beside other stores."""
        fields = self.fields()
        wanted = ("format", "verdict", "dimension", "metric", "epoch")
        figures = {name: fields[name] for name in wanted}
        return figures | {"live_rows": self.live_rows, "file_bytes": self.file_bytes} | self._flaw()

    def _flaw(self) -> dict[str, object]:
        if self.verdict.ending is Ending.CLEAN:
            return {}
        return {"offset": self.verdict.offset, "reason": self.verdict.reason}


def examine_vectors(disk: Disk, path: str, tick: Callable[[], None]) -> VectorReport:
    """The RVF file at ``path``; raises plain ``OSError`` when it cannot be read."""
    file = disk.open(path)
    try:
        ledger = Ledger(disk, path)  # ahead of the map: so it never tells of more than is mapped
        view, inode = file.map(), file.inode()
    finally:
        file.close()
    if not len(view):  # the original makes the file before it takes the lock
        reason = "the file is empty; opening it with a dimension makes an empty store"
        return _report(path, view, Verdict(Ending.TORN, 0, reason), opens=True)
    told = evidence(ledger, view, inode, is_marked_unsynced(disk, path))
    try:
        judged = judge(disk, path, view, told, tick)
    except (HoldfastError, OSError) as error:
        return _refused(disk, path, view, error, tick)
    return _opening(disk, path, view, judged, tick)


def _opening(
    disk: Disk, path: str, view: memoryview, judged: Judgement, tick: Callable[[], None]
) -> VectorReport:
    """The report on a file that opens."""
    verified = _verified(disk, path, view[: judged.end], tick)
    problems = verified.problems
    lost = verified.ancestors[-1].problem if verified.ancestors else None
    # A file that only remembers its parent is whole without it; a branch would not open.
    own = problems[:-1] if lost else problems
    tail = len(view) - judged.end
    verdict = Verdict(Ending.CLEAN, len(view))
    if own:
        placed = _PLACED.fullmatch(own[0])
        verdict = Verdict(Ending.CORRUPT, None, own[0])
        if placed is not None:
            verdict = Verdict(Ending.CORRUPT, int(placed[1]), placed[2])
    elif tail:
        verdict = Verdict(Ending.TORN, judged.end, judged.reason)
    if tail:
        problems = [*problems, f"offset {judged.end}: {tail} bytes: {judged.reason}"]
    manifest = _manifest_at(view, judged.loaded.catalog.manifest_at)
    return _report(
        path, view, verdict, opens=True, problems=problems, manifest=manifest, loaded=judged.loaded
    )


def _refused(
    disk: Disk,
    path: str,
    view: memoryview,
    error: HoldfastError | OSError,
    tick: Callable[[], None],
) -> VectorReport:
    """The report on a file that opening refuses for this error."""
    verified = _verified(disk, path, view, tick)
    problems = verified.problems
    ending = Ending.INVALID if isinstance(error, InvalidFormat) else Ending.CORRUPT
    verdict = Verdict(ending, None, str(error))
    if isinstance(error, StoreCorrupt):  # others are about the parent
        verdict = Verdict(ending, error.offset, error.reason or error.message)
    located = find_intact(view, tick)
    if located is None:
        legible = any(segment.state == "intact" for segment in verified.segments)
        ours = legible or view[: len(MAGIC)] == MAGIC
        standing = Standing.DAMAGED if ours else Standing.NOT_OURS
        return _report(path, view, verdict, opens=False, problems=problems, standing=standing)
    reading = read_what_is_left(disk, path, view, located, tick)
    problems = _once(problems + [str(flaw) for flaw in reading.flaws])
    return _report(
        path,
        view,
        verdict,
        opens=False,
        problems=problems,
        manifest=located.manifest,
        loaded=reading.loaded,
    )


def _once(problems: list[str]) -> list[str]:
    """The problems without those of a place that another one is about."""
    found: dict[str, str] = {}
    for problem in problems:
        placed = _PLACED.fullmatch(problem)
        found.setdefault(problem if placed is None else placed[1], problem)
    return list(found.values())


def _report(
    path: str,
    view: memoryview,
    verdict: Verdict,
    *,
    opens: bool,
    problems: list[str] | None = None,
    manifest: Manifest | None = None,
    loaded: Loaded | None = None,
    standing: Standing | None = None,
) -> VectorReport:
    return VectorReport(
        path,
        verdict,
        STANDINGS[verdict.ending] if standing is None else standing,
        opens,
        len(view),
        problems or [],
        manifest,
        loaded,
    )


def _verified(disk: Disk, path: str, view: memoryview, tick: Callable[[], None]) -> Verified:
    return _finished(verify_steps(disk, path, view), tick)


def _finished(steps: Generator[object, None, T], tick: Callable[[], None]) -> T:
    """What a generator returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        tick()


def _manifest_at(view: memoryview, offset: int) -> Manifest:
    header = decode_header(view, offset)
    assert header is not None
    start = offset + HEADER_BYTES
    return decode_manifest(view[start : start + header.payload_bytes])
