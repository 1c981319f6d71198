"""The registry's actor: trained models, each under the hash of the schema it was trained on.

Every write makes the whole file anew, so writes are gathered: those drained in one turn are checked
at once, then written together, in the order they came, by the first of them that is worked on.
Reads show what is in place, not what is gathered. What cannot be written is told to each caller by
a typed error, and nothing has changed then, in the file or in memory.
"""

import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np

from holdfast.formats import model_artifact, zsm
from holdfast.formats.bincode import Malformed, Reader
from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    LimitExceeded,
    from_os_error,
)
from holdfast.formats.fingerprint import Fingerprint, check_fingerprint
from holdfast.formats.limits import (
    ARTIFACT_BYTES_MAX,
    ARTIFACTS_MAX,
    DRAIN_REQUESTS_MAX,
    REGISTRY_BYTES_MAX,
)
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.disk import Disk
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.letting_go import letting_go
from holdfast.workers.lock import SUFFIX as LOCK_SUFFIX
from holdfast.workers.lock import Lock, owning
from holdfast.workers.messages import Done, Reply, Request, StoreMayDrop, StoreSpec, StoreStatus
from holdfast.workers.registry_recovery import (
    RecoveredRegistry,
    drop_files,
    encode,
    recover,
)
from holdfast.workers.registry_table import Nearest, Stored

_WARM_START_MAX = np.float32(0.25)


def open_registry(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> "RegistryActor":
    """Recover the registry that ``spec`` names."""
    with owning(disk, spec.path + LOCK_SUFFIX, spec.path) as lock:
        recovered = recover(disk, spec, tick)
    return RegistryActor(disk, spec, lock, recovered, tick)


@dataclass(slots=True)
class _Write:
    """One request that is to be written: artifacts to save, or the key of one to delete."""

    caller: Caller
    saves: list[Stored]
    delete: bytes | None = None
    reply: Reply = field(default_factory=Done)
    error: HoldfastError | None = None

    @property
    def note(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What the ledger keeps: whose it was, and whether something was deleted."""
        deleted = isinstance(self.reply, rm.RegistryDeleted) and self.reply.deleted
        return (self.caller.client, self.caller.request), (int(deleted), 0)


@dataclass(slots=True, eq=False)
class _Batch:
    """Writes that go into one new file."""

    writes: list[_Write] = field(default_factory=list)
    written: bool = False


class _Draft:
    """The artifacts as they are going to be."""

    def __init__(self, table: dict[bytes, Stored]) -> None:
        self.table = table
        self._size = sum(stored.size for stored in table.values())

    def apply(self, write: _Write) -> bool:
        """Do a write, give it its reply or error; whether it changed anything."""
        if write.delete is not None:
            deleted = self.table.pop(write.delete, None)
            self._size -= 0 if deleted is None else deleted.size
            write.reply = rm.RegistryDeleted(deleted is not None)
            return deleted is not None
        added = {stored.key: stored for stored in write.saves}
        size = self._size + sum(stored.size for stored in added.values())
        size -= sum(self.table[key].size for key in added if key in self.table)
        count = len(self.table.keys() | added.keys())
        for have, limit, unit in (
            (size, REGISTRY_BYTES_MAX, "bytes"),
            (count, ARTIFACTS_MAX, "models"),
        ):
            if have > limit:
                write.error = LimitExceeded(
                    f"with this the registry has {have} {unit}, over the limit of {limit}"
                )
                return False
        self.table |= added
        self._size = size
        return True


class RegistryActor:
    """One registry, recovered and ready. See ``holdfast.workers.actor`` for the contract."""

    def __init__(
        self,
        disk: Disk,
        spec: StoreSpec,
        lock: Lock,
        recovered: RecoveredRegistry,
        tick: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._spec = spec
        self._lock = lock
        self._tick = tick
        self._batch = _Batch()
        self._nearest = Nearest(tick)
        self._take_over(recovered)

    def _take_over(self, recovered: RecoveredRegistry) -> None:
        self._recovered = recovered
        self._file = recovered.file
        self._ledger = recovered.ledger
        self._group = GroupCommit(self._spec, recovered.file, recovered.ledger)
        self._table = recovered.table
        self._nearest_is_old = True

    # --- requests --------------------------------------------------------------------------

    def properties(self) -> None:
        return None

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        try:
            self._follow()
            match request:
                case rm.RegistryGet(key=key):
                    return rm.RegistryFound(_artifact(self._table.get(key)))
                case rm.RegistrySave(artifacts=artifacts):
                    return self._save(artifacts, caller)
                case rm.RegistryNearest():
                    return self._neighbours(request)
                case rm.RegistryStartup():
                    return self._startup(request)
                case rm.RegistryList():
                    return rm.RegistryArtifacts(
                        [self._table[key].artifact for key in sorted(self._table)]
                    )
                case rm.RegistryDelete(key=key):
                    return self._delete(key, caller)
                case StoreStatus():
                    return self._status()
                case StoreMayDrop():
                    return Done()
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise from_os_error(error, "look at", self._file.path) from error
        raise InvalidArgument(f"a registry does not answer {type(request).__name__}")

    def _follow(self) -> None:
        """Read the file anew when another program has put its own in place.

        The original takes no lock, and what it writes must not be lost to our next write.
        """
        if self._file.is_in_place():
            return
        path = self._file.path
        if self._disk.inode_at(path) is None:
            raise RuntimeError(f"{path} was removed")
        try:
            self._ledger.forget_offsets()  # what was written took effect, whatever is there now
            self._ledger.close()
            self._file.close()
            self._take_over(recover(self._disk, self._spec, self._tick))
        except (HoldfastError, OSError) as error:
            raise RuntimeError(f"{path} was replaced, and cannot be read: {error}") from error

    # --- reading ---------------------------------------------------------------------------

    def _neighbours(self, request: rm.RegistryNearest) -> Reply:
        if request.k < 1:
            raise InvalidArgument(f"k={request.k} is below 1")
        fingerprint = _fingerprint(request.fingerprint)
        found = self._find(fingerprint, request.k, strict=request.strict)
        return rm.RegistryNeighbours([rm.Neighbour(s.artifact, d) for s, d in found])

    def _startup(self, request: rm.RegistryStartup) -> Reply:
        """Load, start from, or neither; never a model whose parameters do not fit its fields."""
        fingerprint = _fingerprint(request.fingerprint)
        exact = self._table.get(fingerprint.schema_hash)
        if exact is not None and not exact.misfit:
            return rm.RegistryStart(exact.artifact, None)
        found = self._find(fingerprint, 1, strict=request.strict, fitting=True)
        if not found or found[0][1] > _WARM_START_MAX:
            return rm.RegistryStart(None, None)
        return rm.RegistryStart(found[0][0].artifact, found[0][1])

    def _find(
        self, fingerprint: Fingerprint, k: int, *, strict: bool, fitting: bool = False
    ) -> list[tuple[Stored, float]]:
        if self._nearest_is_old:
            self._nearest.update(self._table)
            self._nearest_is_old = False
        return self._nearest.find(fingerprint, k, strict=strict, fitting=fitting)

    # --- writing ---------------------------------------------------------------------------

    def _save(self, artifacts: list[bytes], caller: Caller) -> Reply | Steps:
        if self._ledger.took_effect(*caller) or not artifacts:
            return Done()
        return self._gather(_Write(caller, list(map(self._savable, artifacts))))

    def _savable(self, data: bytes) -> Stored:
        self._tick()  # of large ones each takes a while
        return _savable(data)

    def _delete(self, key: bytes, caller: Caller) -> Reply | Steps:
        if self._ledger.took_effect(*caller):
            return rm.RegistryDeleted(bool(self._ledger.counted(*caller)[0]))
        return self._gather(_Write(caller, [], key))

    def _gather(self, write: _Write) -> Steps:
        if len(self._batch.writes) >= DRAIN_REQUESTS_MAX:  # the ledger has to remember them
            self._batch = _Batch()
        self._batch.writes.append(write)
        return self._written(self._batch, write)

    def _written(self, batch: _Batch, write: _Write) -> Generator[None, None, Reply]:
        """Write the batch unless another of its writes did so; then what came of this one."""
        yield from ()  # a generator for the serve loop's sake: there is but one slice
        if not batch.written:
            if batch is self._batch:
                self._batch = _Batch()
            self._write(batch)
        if write.error is not None:
            raise write.error
        return write.reply

    def _write(self, batch: _Batch) -> None:
        batch.written = True
        try:
            if not self._lock.is_held():
                raise RuntimeError(f"the lock file of {self._file.path} was removed or replaced")
            self._follow()
        except OSError as error:
            refused = from_os_error(error, "look at", self._file.path)
            for write in batch.writes:
                write.error = refused
            return
        draft = _Draft(dict(self._table))
        if not any([draft.apply(write) for write in batch.writes]):
            return
        # Also a deletion that found nothing: what was saved since must not fall to its resend.
        notes = [write.note for write in batch.writes if write.error is None]
        try:
            self._file.put(encode(draft.table), notes, sync=self._group.policy == "always")
        except HoldfastError as error:
            for write in batch.writes:  # whose replies, too, are about what is not there now
                write.error = write.error or error
            return
        self._table, self._nearest_is_old = draft.table, True

    # --- durability ------------------------------------------------------------------------

    def hold(self, caller: Caller) -> None:
        self._ledger.hold(*caller)

    def release(self, caller: Caller) -> None:
        self._ledger.release(*caller)

    def commit(self) -> None:
        self._group.commit()

    def settle(self) -> None:
        """Nothing is ever put off."""

    def sync_due_in(self) -> float | None:
        return self._group.due_in()

    def step(self, *, idle: bool) -> bool:
        return False

    def pressed(self) -> bool:
        return False  # there is no upkeep

    # --- the rest --------------------------------------------------------------------------

    def _status(self) -> rm.RegistryStatus:
        synced_at = self._file.synced_at
        return rm.RegistryStatus(
            kind="registry",
            path=self._file.path,
            durability=self._group.policy,
            artifacts=len(self._table),
            file_bytes=self._file.end,
            synced_age_s=None if synced_at is None else time.monotonic() - synced_at,
            unsynced_bytes=self._file.unsynced_bytes,
            checked=self._recovered.checked,
            fell_back=self._recovered.fell_back,
            pid=os.getpid(),
        )

    def close(self) -> None:
        with letting_go(self._file.close, self._ledger.close, self._lock.release):
            if self._file.unsynced_bytes:
                self._group.sync()
            self._file.close()
            self._ledger.discard()

    def remove(self) -> None:
        with letting_go(self._file.close, self._ledger.close, self._lock.release):
            self._file.close()
            self._ledger.close()
            drop_files(self._disk, self._file.path)

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self._file.close()
        self._ledger.close()
        self._lock.file.close()

    def check_invariants(self) -> None:
        assert not self._batch.writes
        assert self._file.unsynced_bytes in (0, self._file.end)
        for key, stored in self._table.items():
            assert key == stored.key
            assert zsm.checksum_of(key, stored.artifact) == stored.checksum


def _artifact(stored: Stored | None) -> bytes | None:
    return None if stored is None else stored.artifact


def _fingerprint(data: bytes) -> Fingerprint:
    """A fingerprint that came with a request."""
    try:
        reader = Reader(memoryview(data))
        fingerprint = model_artifact.read_fingerprint(reader)
    except Malformed as error:
        raise InvalidArgument(f"malformed fingerprint {error}") from None
    check_fingerprint(fingerprint)
    return fingerprint


def _savable(data: bytes) -> Stored:
    """An artifact that came with a request; raises ``InvalidArgument`` or ``LimitExceeded``."""
    if len(data) > ARTIFACT_BYTES_MAX:
        raise LimitExceeded(
            f"an artifact of {len(data)} bytes is over the limit of {ARTIFACT_BYTES_MAX}"
        )
    try:
        artifact = model_artifact.decode(data)
    except Malformed as error:
        raise InvalidArgument(f"malformed artifact {error}") from None
    model_artifact.check_savable(artifact)
    key = artifact.schema_hash
    return Stored(key, data, zsm.checksum_of(key, data), artifact.fingerprint, None)
