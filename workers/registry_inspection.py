"""Looking at a registry's file without an engine, and what can be had of a damaged one.

The verdict is that of opening; see ``registry_recovery`` for it. What a file holds is read beyond
the damage when its checksums are there to say where entries begin, else up to it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.formats import model_artifact, zsm
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.fingerprint import ambiguous_name
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.formats.zsm import Content, Entry
from holdfast.workers.disk import Disk, write_beside
from holdfast.workers.log_file import is_marked_unsynced
from holdfast.workers.places import SUFFIXES
from holdfast.workers.registry_file import PREVIOUS_SUFFIX
from holdfast.workers.registry_recovery import encode, judge, stored_in, unsynced_flaw
from holdfast.workers.standing import UNKNOWN, Flaw, Rewriting, Standing

REGISTRY = "zsm"


@dataclass(frozen=True, slots=True)
class RegistryReport:
    """What a registry's file holds, or what is named like one."""

    path: str
    verdict: Verdict
    standing: Standing
    file_bytes: int
    content: Content
    view: memoryview = field(repr=False)
    format: str = REGISTRY

    @property
    def entries(self) -> list[Entry]:
        """The intact entries that count, sorted by key."""
        return list(self.content.by_key().values())

    def rows(self) -> Iterator[tuple[bytes, ModelArtifact]]:
        """The intact artifacts and their keys, sorted by key."""
        for entry in self.entries:
            yield entry.key, model_artifact.decode(entry.artifact(self.view))

    @property
    def problems(self) -> list[str]:
        """What there is to say beyond the verdict."""
        found = [f"offset {flaw.offset}: {flaw.reason}" for flaw in self.content.flaws[1:]]
        repeated = len(self.content.entries) - len(self.entries)
        if repeated:
            found.append(f"{repeated} entries have a key that comes again later")
        for entry in self.entries:
            fingerprint, unfit, _ = entry.outline
            name = f"offset {entry.start}: {entry.key.hex()}"
            if entry.key != fingerprint.schema_hash:
                found.append(f"{name} holds a model for {fingerprint.schema_hash.hex()}")
            if unfit is not None:
                found.append(f"{name}: {unfit}")
            else:
                odd = model_artifact.implausible(model_artifact.decode(entry.artifact(self.view)))
                if odd is not None:
                    found.append(f"{name}: {odd}")
            bad = ambiguous_name(stats.name for stats in fingerprint.field_stats)
            if bad is not None:
                found.append(f"{name}: the field name {bad!r} makes the hash ambiguous")
        if self.content.trailing_bytes and not self.content.flaws:
            found.append(f"{self.content.trailing_bytes} bytes behind the entries mean nothing")
        return found

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows."""
        return {
            "format": self.format,
            "count": len(self.entries),
            "verdict": str(self.verdict.ending),
            "checked": self.content.checked,
            "file_bytes": self.file_bytes,
            "problems": self.problems,
            **self._flaw(),
        }

    def summary(self) -> dict[str, object]:
        """The same with a count in place of the list."""
        return self.fields() | {"problems": len(self.problems)}

    def figures(self) -> dict[str, object]:
        """What matters beside other stores."""
        figures: dict[str, object] = {
            "format": self.format,
            "verdict": str(self.verdict.ending),
            "artifacts": len(self.entries),
            "file_bytes": self.file_bytes,
        }
        return figures | self._flaw()

    def _flaw(self) -> dict[str, object]:
        if self.verdict.ending is Ending.CLEAN:
            return {}
        return {"offset": self.verdict.offset, "reason": self.verdict.reason}


def examine_registry(disk: Disk, path: str, tick: Callable[[], None]) -> RegistryReport:
    """The registry at ``path``; raises plain ``OSError`` when it cannot be read."""
    view, inode = _mapped(disk, path)
    content, flaw = judge(view, tick)
    marked = is_marked_unsynced(disk, path)
    if flaw is None and marked:
        flaw = unsynced_flaw(disk, path, content, inode)
    if flaw is None:
        verdict, standing = Verdict(Ending.CLEAN, len(view)), Standing.CLEAN
    elif marked and _whole_previous(disk, path, tick) is not None:
        reason = f"{flaw.reason}; it was not synced, and opening goes back to what was"
        verdict, standing = Verdict(Ending.TORN, flaw.offset, reason), Standing.RECOVERABLE
    elif zsm.header_problem(view) is not None:
        verdict = Verdict(Ending.INVALID, flaw.offset, f"not a registry: {flaw.reason}")
        standing = Standing.NOT_OURS
    else:
        verdict, standing = Verdict(Ending.CORRUPT, flaw.offset, flaw.reason), Standing.DAMAGED
    named = path.endswith(SUFFIXES["registry"]) or bytes(view[:3]) == zsm.MAGIC[:3]
    return RegistryReport(
        path, verdict, standing, len(view), content, view, REGISTRY if named else UNKNOWN
    )


def _mapped(disk: Disk, path: str) -> tuple[memoryview, int]:
    file = disk.open(path)
    try:
        return file.map(), file.inode()
    finally:
        file.close()


def _whole_previous(
    disk: Disk, path: str, tick: Callable[[], None]
) -> tuple[memoryview, Content] | None:
    """The previous generation, if it is there and nothing is wrong with it."""
    if disk.inode_at(path + PREVIOUS_SUFFIX) is None:
        return None
    view, _ = _mapped(disk, path + PREVIOUS_SUFFIX)
    content, flaw = judge(view, tick)
    return None if flaw is not None else (view, content)


def repair_registry(disk: Disk, path: str, *, salvage: bool, tick: Callable[[], None]) -> Rewriting:
    """The file anew from its intact entries; with ``salvage`` what these lack comes from before.

    That is: from the previous generation, the models under keys that no intact entry has. They may
    be older than what was lost, or have been deleted since.
    """
    report = examine_registry(disk, path, tick)
    if report.standing is Standing.NOT_OURS:
        raise InvalidFormat(
            f"{path!r}: {report.verdict.reason}",
            path=path,
            offset=report.verdict.offset,
            reason=report.verdict.reason,
        )
    table = stored_in(report.view, report.content)
    intact = len(table)
    lost = [
        Flaw(flaw.offset, flaw.reason, _entries_lost(report.content, flaw.end))
        for flaw in report.content.flaws
    ]
    notes = []
    if lost and table and not report.content.checked:
        notes.append("no checksums vouch for the models that are kept")
    previous = _whole_previous(disk, path, tick) if lost else None
    if previous is not None:
        before = stored_in(*previous)
        missing = {key: stored for key, stored in before.items() if key not in table}
        if salvage:
            table |= missing
        elif missing:
            notes.append(
                f"{path + PREVIOUS_SUFFIX} has {len(missing)} models that this lacks, which may "
                "be old or were deleted; --salvage takes them"
            )
    return Rewriting(
        lambda output: write_beside(disk, output, encode(table)).close(),
        len(table),
        len(table) - intact,
        lost,
        notes,
    )


def _entries_lost(content: Content, end: int | None) -> int:
    """How many entries go with a flaw: the one it is in, or all from there on."""
    if end is not None:
        return int(end > zsm.HEADER_BYTES)
    return max(0, content.count - len(content.entries)) if content.count < 1 << 32 else 0
