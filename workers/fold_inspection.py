"""Looking at a fold's log or artifact, without an engine; see ``holdfast.workers.inspection``.

A log is judged as recovery would judge it, the ledger beside it included, and always from its
beginning: an index cache is not believed. The rows are streamed from its map; memory holds one key
and one number per key.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.formats import fold_log
from holdfast.formats.artifact import BACKEND, BACKEND_VERSION, PAYLOAD_PATH
from holdfast.formats.artifact import SCHEMA_VERSION as ARTIFACT_SCHEMA_VERSION
from holdfast.formats.fold_log import DELETED, HEADER_BYTES, MAGIC, Ending, Scan, Verdict
from holdfast.formats.values import Cursor, KvEntry
from holdfast.workers.artifacts import ArtifactReport, inspect_artifact
from holdfast.workers.disk import Buffer, Disk
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import is_marked_unsynced
from holdfast.workers.places import SUFFIXES
from holdfast.workers.standing import STANDINGS, UNKNOWN, Standing

FOLD_LOG = "fold-log"
FOLD_ARTIFACT = "fold-artifact"


@dataclass(frozen=True, slots=True)
class LogReport:
    """What a file holds that is a fold log, or is named like one, or is nothing we know."""

    path: str
    format: str
    version: int | None
    standing: Standing
    verdict: Verdict
    cursor: Cursor
    log_bytes: int
    entries: int = 0
    live_bytes: int = 0
    _view: memoryview = field(default=memoryview(b""), repr=False)
    _spans: dict[bytes, int] = field(default_factory=dict, repr=False)

    def rows(self) -> Iterator[KvEntry]:
        """The entries in key order: those before the damage, where there is any."""
        for key in sorted(self._spans):
            span = self._spans[key]
            if span != DELETED:
                # The file may have been cut and written since it was scanned.
                with contextlib.suppress(fold_log.DamagedRecord):
                    yield from fold_log.decode_puts(self._view, (span,))

    def canonical(self) -> Iterator[Buffer]:
        """The log that compaction would make of the entries; raises ``DamagedRecord``."""
        from holdfast.formats.fold_canonical import (
            canonical_log,
        )  # numpy, which a check can do without

        spans = [self._spans[key] for key in sorted(self._spans)]
        live = [span for span in spans if span != DELETED]
        return canonical_log(self._view, live, self.cursor)

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows."""
        return {
            "format": self.format,
            "version": self.version,
            "verdict": str(self.verdict.ending),
            "entries": self.entries,
            "cursor": self.cursor.token.hex(),
            **_flaw(self.verdict),
        }

    def summary(self) -> dict[str, object]:
        """The report as text has it."""
        return self.fields()

    def figures(self) -> dict[str, object]:
        """What matters beside other stores."""
        return self.fields() | {"log_bytes": self.log_bytes, "live_bytes": self.live_bytes}

    @property
    def problems(self) -> list[str]:
        """What there is to say beyond the verdict: nothing."""
        return []


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """What an export artifact holds."""

    path: str
    report: ArtifactReport
    log: LogReport | None
    """The payload, if there is one."""

    format: str = FOLD_ARTIFACT

    @property
    def standing(self) -> Standing:
        """As for a log; the manifest stands for the header."""
        if self.report.manifest is None:
            return Standing.NOT_OURS
        if not self.report.importable:  # nobody repairs an artifact: get another
            return Standing.DAMAGED
        return STANDINGS[self.report.verdict]

    @property
    def verdict(self) -> Verdict:
        """The verdict on the whole; the offset is one in the payload."""
        damaged = self.log is not None and self.log.verdict.ending is not Ending.CLEAN
        offset = self.log.verdict.offset if self.log is not None and damaged else 0
        return Verdict(self.report.verdict, offset, self.report.reason)

    def rows(self) -> Iterator[KvEntry]:
        """The entries of the payload in key order."""
        return iter(()) if self.log is None else self.log.rows()

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows. Manifest fields only where they were legible."""
        manifest, report = self.report.manifest, self.report
        fields: dict[str, object] = {
            "format": self.format,
            "version": None if manifest is None else ARTIFACT_SCHEMA_VERSION,
            "verdict": str(report.verdict),
            "importable": report.importable,
            "entries": report.entries or 0,
            "cursor": "" if manifest is None else manifest.cursor.token.hex(),
        }
        if manifest is not None:
            payload = {
                "path": PAYLOAD_PATH,
                "size": manifest.payload_bytes,
                "blake3": manifest.payload_blake3,
            }
            fields |= {
                "schema_version": ARTIFACT_SCHEMA_VERSION,
                "backend": BACKEND,
                "backend_version": BACKEND_VERSION,
                "cursor_hex": manifest.cursor.token.hex(),
                "created_at_unix": manifest.created_at_unix,
                "files": [payload],
            }
        return fields | _flaw(self.verdict)

    def summary(self) -> dict[str, object]:
        """The report as text has it."""
        return self.fields()

    def figures(self) -> dict[str, object]:
        """What matters beside other stores."""
        return self.fields()

    @property
    def problems(self) -> list[str]:
        """What there is to say beyond the verdict: nothing."""
        return []


def examine_artifact(disk: Disk, path: str, tick: Callable[[], None]) -> ArtifactView:
    """The artifact in the directory ``path``."""
    report = inspect_artifact(disk, path, tick)
    log = None
    if report.entries is not None:
        log = examine_log(disk, os.path.join(path, PAYLOAD_PATH), tick)
    return ArtifactView(path, report, log)


def examine_log(disk: Disk, path: str, tick: Callable[[], None]) -> LogReport:
    """The log at ``path``, or that there is none; raises plain ``OSError``."""
    file = disk.open(path)
    try:
        ledger = Ledger(disk, path)  # ahead of the map: so it never tells of more than is mapped
        view, inode = file.map(), file.inode()
    finally:
        file.close()
    problem = fold_log.header_problem(view[:HEADER_BYTES])
    if problem is not None:
        return _foreign_log(path, view, problem)
    if len(view) < HEADER_BYTES:
        reason = f"the header is cut short at {len(view)} bytes; opening makes an empty fold"
        return _log_report(path, view, {}, None, Verdict(Ending.TORN, 0, reason))
    spans: dict[bytes, int] = {}
    start = HEADER_BYTES
    unsynced_from = ledger.unsynced_from(view, inode, sync_failed=is_marked_unsynced(disk, path))
    scan = fold_log.scan(view, start, spans, unsynced_from=unsynced_from, tick=tick)
    if scan.verdict.ending in (Ending.CLEAN, Ending.TORN):
        whole = ledger.cut(view, inode, scan.end)
        if whole < scan.end:
            spans = {}
            scan = fold_log.scan(view[:whole], start, spans, tick=tick)
            reason = "a request was logged only in part, and nobody was told that it happened"
            return _log_report(path, view, spans, scan, Verdict(Ending.TORN, whole, reason))
    return _log_report(path, view, spans, scan, scan.verdict)


def _log_report(
    path: str, view: memoryview, spans: dict[bytes, int], scan: Scan | None, verdict: Verdict
) -> LogReport:
    cursor = scan.cursor if scan is not None and scan.cursor is not None else Cursor.none()
    lengths = [fold_log.unpack_span(span)[1] for span in spans.values() if span != DELETED]
    return LogReport(
        path,
        FOLD_LOG,
        fold_log.FORMAT_VERSION,
        STANDINGS[verdict.ending],
        verdict,
        cursor,
        len(view),
        len(lengths),
        sum(lengths),
        view,
        spans,
    )


def _foreign_log(path: str, view: memoryview, problem: str) -> LogReport:
    """The report on a file whose header is not that of a log we read."""
    has_magic = bytes(view[: len(MAGIC)]) == MAGIC
    named = path.endswith(SUFFIXES["fold"])
    return LogReport(
        path,
        FOLD_LOG if has_magic or named else UNKNOWN,
        int.from_bytes(view[len(MAGIC) : HEADER_BYTES], "little") if has_magic else None,
        Standing.NOT_OURS,
        Verdict(Ending.INVALID, len(MAGIC) if has_magic else 0, f"not a fold log: {problem}"),
        Cursor.none(),
        len(view),
    )


def not_ours(path: str, reason: str) -> LogReport:
    """The report on what is nothing we know."""
    verdict = Verdict(Ending.INVALID, 0, reason)
    return LogReport(path, UNKNOWN, None, Standing.NOT_OURS, verdict, Cursor.none(), 0)


def _flaw(verdict: Verdict) -> dict[str, object]:
    if verdict.ending is Ending.CLEAN:
        return {}
    return {"offset": verdict.offset, "reason": verdict.reason}
