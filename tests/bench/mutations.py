"""Defects as people make them, each an edit of one file, and the drill that has to notice it."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """An edit of a module of the package, and how the drill is to be run."""

    name: str
    module: str
    """Below the package."""
    old: str
    new: str
    faults: str
    store: str = "fold"
    seconds: int = 6


MUTATIONS = (
    Mutation(
        "a rename without a sync of its directory",
        "workers/disk.py",
        "    disk.rename(temporary, path)\n    disk.sync_directory(directory_of(path))\n",
        "    disk.rename(temporary, path)\n",
        "crash",
    ),
    Mutation(
        "an acknowledgement before the sync",
        "workers/group_commit.py",
        "        self._log.sync()\n",
        "        self._log.synced_end = self._log.end\n",
        "crash",
    ),
    Mutation(
        "a file put in place before its content is synced",
        "workers/disk.py",
        "                unsynced = 0\n        file.sync()\n",
        "                unsynced = 0\n",
        "crash",
    ),
    Mutation(
        "a manifest before its chunks are synced",
        "workers/warm_writing.py",
        "        file.sync()\n    finally:",
        "    finally:",
        "crash",
        "warm",
        seconds=20,
    ),
    Mutation(
        "the directory of a new store not synced",
        "workers/warm_recovery.py",
        "disk.sync_directory(directory_of(",
        "len(directory_of(",
        "crash",
        "warm",
    ),
    Mutation(
        "dead rows not persisted",
        "workers/warm_store.py",
        "dead_rows.encode(self.store_id, chunk.entry.number, chunk.dead)",
        "dead_rows.encode(self.store_id, chunk.entry.number, chunk.dead & False)",
        "crash",
        "warm",
        seconds=20,
    ),
    Mutation(
        "a torn tail read as corruption",
        "formats/fold_log.py",
        "    if intact is None:\n        return Verdict(Ending.TORN,",
        "    if intact is None:\n        return Verdict(Ending.CORRUPT,",
        "kill",
    ),
    Mutation(
        "a torn tail not trimmed",
        "workers/mending.py",
        "        file.truncate(end)\n",
        "        pass\n",
        "kill",
    ),
    Mutation(
        "a cut below what was acknowledged",
        "workers/ledger.py",
        "< end < slot.end and _begins_at(log, slot):\n                return slot.start\n"
        "        return end",
        "< end <= slot.end and _begins_at(log, slot):\n                return slot.start\n"
        "        return end",
        "kill",
    ),
    Mutation(
        "the ledger not consulted when a request comes again",
        "workers/fold.py",
        "        if self._ledger.took_effect(*caller):\n            return Done()\n",
        "",
        "kill",
    ),
    Mutation(
        "a failed sync that is tried again",
        "workers/log_file.py",
        "            mark_unsynced(self._disk, self.path)\n"
        '            raise Fatal(f"cannot sync {self.path!r}: {error.strerror}") from error\n',
        "            self.file.sync()\n",
        "errors",
        seconds=20,
    ),
    Mutation(
        "a failed append that is not undone",
        "workers/log_file.py",
        "            try:\n                self.file.truncate(self.end)\n",
        "            try:\n                self.end = self.file.size()\n",
        "errors",
    ),
    Mutation(
        "a full disk told as any other error",
        "formats/errors.py",
        "        cls = StoreFull\n",
        "        cls = StoreIOError\n",
        "errors",
    ),
    Mutation(
        "a checksum that is not verified",
        "formats/checksum.py",
        "from isal.isal_zlib import crc32, crc32_combine\n",
        "def crc32(data: object, value: int = 0) -> int:\n    return 1\n\n\n"
        "def crc32_combine(first: int, second: int, length: int) -> int:\n    return 1\n",
        "damage",
    ),
    Mutation(
        "a verify that calls damage clean",
        "workers/standing.py",
        "    Ending.CORRUPT: Standing.DAMAGED,\n",
        "    Ending.CORRUPT: Standing.CLEAN,\n",
        "damage",
    ),
    Mutation(
        "a lock that locks nothing",
        "workers/disk.py",
        "            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "processes",
        seconds=15,
    ),
    Mutation(
        "a failed sync of a directory that is passed over",
        "workers/disk.py",
        "    disk.rename(temporary, path)\n    disk.sync_directory(directory_of(path))\n",
        "    disk.rename(temporary, path)\n    with contextlib.suppress(OSError):\n"
        "        disk.sync_directory(directory_of(path))\n",
        "errors",
        seconds=20,
    ),
    Mutation(
        "a lock that goes by the pid in its file",
        "workers/lock.py",
        "                if not file.lock():\n",
        "                if read_owner(disk, path) is not None:\n",
        "processes",
        seconds=4,
    ),
    Mutation(
        "a call that is not sent again when its worker dies",
        "call.py",
        "        self.lost = generation\n",
        "        raise WorkerCrashed(\n"
        '            "it died", store=self._store, request=self._name, cause="", '
        "may_have_happened=True\n        )\n",
        "processes",
        seconds=4,
    ),
    Mutation(
        "a supervisor that stays when its last host is gone",
        "workers/supervisor.py",
        "            elif now >= self._leave_at and self._wind_down(now):\n",
        "            elif False:\n",
        "processes",
        seconds=4,
    ),
    Mutation(
        "a reply that is forgotten when several share a commit",
        "workers/worker.py",
        "        for session, kind, message, request in replies:\n",
        "        for session, kind, message, request in replies[:1]:\n",
        "processes",
        seconds=4,
    ),
    Mutation(
        "a file touched past the file layer",
        "workers/worker.py",
        "        actor = opener(spec.kind)(OsDisk(), spec, vitals.tick)\n",
        "        actor = opener(spec.kind)(OsDisk(), spec, vitals.tick)\n"
        '        os.close(os.open(spec.path + ".seen", os.O_CREAT | os.O_WRONLY))\n',
        "kill",
        seconds=8,
    ),
    Mutation(
        "a deadline that goes by the wall clock",
        "session.py",
        "import time\n",
        "import time as clock\nfrom types import SimpleNamespace\n\n"
        "BOOTED = clock.time() - clock.monotonic()\n"
        "time = SimpleNamespace(monotonic=lambda: clock.time() - BOOTED)\n",
        "time",
        seconds=4,
    ),
    Mutation(
        "a recovery that forgets the last record",
        "workers/fold_recovery.py",
        "    whole = ledger.cut(view, inode, scan.end)\n",
        "    whole = min(scan.last_record, ledger.cut(view, inode, scan.end))\n",
        "soak",
        seconds=12,
    ),
)
