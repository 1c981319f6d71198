"""Children of a vector store: branches that show its rows, derived files that only remember it.

A branch pins a commit of its parent. The parent may go on, since its file only grows, but may not
be compacted as long as the branch exists, so the parent remembers its branches; it does so before
their files are made, and forgets those that never came to be, or are gone.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import HasBranches, HoldfastError, StoreExists
from holdfast.formats.rvf import cow, record
from holdfast.formats.rvf.manifest import Identity
from holdfast.formats.rvf.record import Child, Pin, StoreRecord
from holdfast.formats.rvf.scan import Located, find_intact, find_manifest
from holdfast.formats.rvf.segment import SegmentType
from holdfast.workers import sets
from holdfast.workers.actor import Caller
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk, directory_of, remove_if_there, replace
from holdfast.workers.log_file import Fatal
from holdfast.workers.vector_catalog import Catalog, Commit
from holdfast.workers.vector_loading import (
    DamagedSegment,
    catalog_of,
    map_file,
    parent_hash,
    payload_at,
)
from holdfast.workers.vector_messages import CowStats
from holdfast.workers.vector_recovery import first_commit
from holdfast.workers.vector_store import VectorStore

_CLUSTER_BYTES = 4096
_ROW_HEAD_BYTES = 8

# A bitmap of the parent's ids, for readers of the original, costs its length at each change.
MEMBERSHIP_BYTES_MAX = 1 << 19


# --- making children ---------------------------------------------------------------------------


def branch(
    store: VectorStore,
    path: str,
    hidden: NDArray[np.uint64],
    caller: Caller,
    sync: Callable[[], None],
) -> None:
    """Make a branch at ``path`` as of now, without the rows of the ``hidden`` ids, ascending.

    Raises ``StoreExists``. After a crash in the middle the same caller may ask again.
    """
    assert store.ledger is not None
    name = os.path.relpath(path, directory_of(store.path))
    exists = store.disk.inode_at(path) is not None
    if store.ledger.took_effect(*caller):
        if exists:  # whoever made it may have ended before its name was safe
            store.disk.sync_directory(directory_of(path))
            return
        found = [child for child in store.catalog.record.children if child.name == name]
    elif exists:
        raise StoreExists(f"{path!r} exists", path=path)
    else:
        found = []
    known = found[0] if found else Child(name, secrets.token_hex(16))
    if not found:  # also if a later commit has forgotten it, since its file was not there
        _remember(store, known, caller)
    sync()  # a branch must never outlive the commit that it shows
    parent = store.catalog
    child = Catalog(
        parent.dimension,
        _identity_of_child(store, bytes.fromhex(known.file_id)),
        StoreRecord(
            parent.record.metric, parent.record.profile, origin="branch", parent=_pin(store, path)
        ),
    )
    commit = Commit(child, 0)
    commit.store_record(child.record)
    inherited = store.table.ids[store.table.live_in_id_order()]
    add_cow_map(commit, child.record.parent, inherited, parent.epoch)
    hide(commit, inherited, np.empty(0, np.uint64), hidden, store.tick)
    _put(store.disk, path, commit.finish(0))


def derive(
    store: VectorStore,
    path: str,
    derivation: str,
    dimension: int | None,
    caller: Caller,
    sync: Callable[[], None],
) -> None:
    """Make an empty file at ``path`` that says it was derived from this one. ``StoreExists``."""
    assert store.ledger is not None
    if store.disk.inode_at(path) is not None:
        if store.ledger.took_effect(*caller):
            store.disk.sync_directory(directory_of(path))  # as for a branch
            return
        raise StoreExists(f"{path!r} exists", path=path)
    store.ledger.note(*caller)
    store.ledger.logged(*caller)
    sync()  # a child must never outlive the commit whose hash it bears
    parent = store.catalog
    child = Catalog(
        dimension or parent.dimension,
        _identity_of_child(store, secrets.token_bytes(16)),
        StoreRecord(
            parent.record.metric,
            parent.record.profile,
            origin="derived",
            derivation=derivation,
            parent=_pin(store, path),
        ),
    )
    _put(store.disk, path, first_commit(child))


def _put(disk: Disk, path: str, content: bytes) -> None:
    """Make a child's file, or nothing; ``Fatal`` when it may be there and cannot be taken away."""
    try:
        replace(disk, path, [content])
    except OSError as error:
        with contextlib.suppress(OSError):  # opening the child removes it, too
            disk.remove(path + TEMPORARY_SUFFIX)
        try:
            remove_if_there(disk, path)
            disk.sync_directory(directory_of(path))
        except OSError as second:
            raise Fatal(f"cannot take back {path!r}: {second}") from error
        raise


def _remember(store: VectorStore, child: Child, caller: Caller) -> None:
    """Have the parent's file tell of a branch."""
    commit = store.begin()
    kept = tuple(c for c in live_children(store) if c.name != child.name)
    changed = store.catalog.record.with_children((*kept, child))
    commit.store_record(changed)
    store.write(commit, store.own_live_rows(), caller, (0, store.catalog.epoch))


def _identity_of_child(store: VectorStore, file_id: bytes) -> Identity:
    parent = store.catalog.identity
    tail = parent_hash(store.log.remap(), store.log.end)
    return Identity(file_id, parent.file_id, tail, parent.depth + 1)


def _pin(store: VectorStore, path: str) -> Pin:
    name = os.path.relpath(store.path, directory_of(path))
    return Pin(name, store.catalog.manifest_at, store.log.end)


# --- what a branch shows -----------------------------------------------------------------------


def add_cow_map(commit: Commit, pin: Pin | None, inherited: NDArray[np.uint64], epoch: int) -> None:
    """The reference to the parent by which readers of the original find it; RVF 5.9.

    They look beside the child only, and take a reference without a bitmap of what is shown for
    damage. A branch of ours can do without either: then they see only its own rows.
    """
    identity, dimension = commit.catalog.identity, commit.catalog.dimension
    if pin is None or os.path.basename(pin.name) != pin.name:
        return
    is_ours = commit.catalog.record.parent is not None
    if is_ours and _bitmap_bits(inherited) > MEMBERSHIP_BYTES_MAX * 8:
        return
    commit.catalog.drop(SegmentType.COW_MAP)
    commit.other(
        SegmentType.COW_MAP,
        cow.encode_cow_map(
            cow.CowMap(
                parent_name=pin.name,
                parent_id=identity.parent_id,
                parent_hash=identity.parent_hash,
                cluster_bytes=_CLUSTER_BYTES,
                vectors_per_cluster=max(1, _CLUSTER_BYTES // (4 * dimension)),
                bytes_per_vector=4 * dimension,
                snapshot_epoch=epoch,
            )
        ),
    )


def hide(
    commit: Commit,
    inherited: NDArray[np.uint64],
    hidden: NDArray[np.uint64],
    more: NDArray[np.uint64],
    tick: Callable[[], None],
) -> NDArray[np.uint64]:
    """Stop showing ``more`` of the ``inherited`` ids; returns all that are hidden then."""
    new = sets.difference(sets.intersection(more, inherited), hidden)
    if len(new):
        generation = commit.next_generation()
        commit.other(SegmentType.HIDDEN, record.encode_hidden(new, generation, snapshot=False))
        hidden = sets.union(hidden, new)
    if len(new) or not commit.catalog.of_type(SegmentType.MEMBERSHIP):
        add_membership(commit, inherited, hidden, tick)
    return hidden


def add_membership(
    commit: Commit,
    inherited: NDArray[np.uint64],
    hidden: NDArray[np.uint64],
    tick: Callable[[], None],
) -> None:
    """The bitmap by which readers of the original know what a branch shows; RVF 5.10.

    Only beside the reference to the parent, which has to be there already.
    """
    commit.catalog.drop(SegmentType.MEMBERSHIP)
    if not commit.catalog.of_type(SegmentType.COW_MAP):
        return
    shown = cow.Membership.of(sets.difference(inherited, hidden), _bitmap_bits(inherited))
    commit.other(SegmentType.MEMBERSHIP, cow.encode_membership(shown, tick))


def _bitmap_bits(inherited: NDArray[np.uint64]) -> int:
    return int(inherited[-1]) + 1 if len(inherited) else 0


def cow_stats(store: VectorStore) -> CowStats:
    """What a branch has from its parents and of its own."""
    table, inherited = store.table, store.inherited_rows
    row_bytes = _ROW_HEAD_BYTES + 4 * store.dimension
    shown = table.live_below(inherited)
    local = table.live_rows - shown
    overridden = int(np.count_nonzero(table.find_live(store.inherited_ids) >= inherited))
    hidden = len(store.inherited_ids) - shown - overridden
    return CowStats(
        is_cow_child=bool(store.ancestors),
        parent_path=store.ancestors[0].path if store.ancestors else None,
        inherited_rows=shown,
        inherited_bytes=shown * row_bytes,
        local_rows=local,
        local_bytes=local * row_bytes,
        overridden_rows=overridden,
        overridden_bytes=overridden * row_bytes,
        hidden_rows=hidden,
        hidden_bytes=hidden * row_bytes,
    )


# --- what depends on a store -------------------------------------------------------------------


def live_children(store: VectorStore) -> list[Child]:
    """The branches that read this store's file."""
    return [
        child for child in store.catalog.record.children if _is_there(store.disk, store.path, child)
    ]


def _is_there(disk: Disk, parent_path: str, child: Child) -> bool:
    path = os.path.join(directory_of(parent_path), child.name)
    if disk.inode_at(path) is None:
        return False
    try:
        located = find_manifest(map_file(disk, path, "a branch"))
    except (HoldfastError, OSError):
        return True  # whatever it is, it may be repaired
    if located is None or located.manifest.identity is None:
        return True
    return located.manifest.identity.file_id.hex() == child.file_id


def _branches_beside(disk: Disk, path: str, file_id: bytes | None) -> list[str]:
    """Names of the branches of the file at ``path``, of this id if it is known, that lie beside it.

    The original writes nothing about its branches into the parent, and they always lie there.
    """
    directory, own = os.path.split(path)
    found = []
    for name, kind in disk.list(directory_of(path)):
        if kind != "file" or name == own or not os.path.splitext(name)[1].startswith(".rv"):
            continue
        try:
            view = map_file(disk, os.path.join(directory, name), "a sibling")
            located = find_manifest(view)
            if located is not None and any(
                parent == own and file_id in (None, parent_id)
                for parent, parent_id in _parents_named(name, view, located)
            ):
                found.append(name)
        except (HoldfastError, OSError):
            continue  # it cannot be opened either
    return found


def _parents_named(name: str, view: memoryview, located: Located) -> Iterator[tuple[str, bytes]]:
    """File name and id of the parent, as a branch says it for the original, and for us."""
    entries = [e for e in located.manifest.entries if e.type == SegmentType.COW_MAP]
    for entry in entries[-1:]:
        parent = cow.decode_cow_map(payload_at(view, entry))
        yield parent.parent_name, parent.parent_id
    catalog = catalog_of(name, view, located)
    if catalog.record.origin == "branch" and catalog.record.parent is not None:
        yield catalog.record.parent.name, catalog.identity.parent_id


def check_no_branches(store: VectorStore, doing: str) -> None:
    """Raise ``HasBranches`` if there are any."""
    names = [child.name for child in live_children(store)]
    names = names or _branches_beside(store.disk, store.path, store.catalog.identity.file_id)
    _refuse_if_any(names, store.path, doing)


def check_no_branches_unread(disk: Disk, path: str, doing: str) -> None:
    """Raise ``HasBranches`` if a file that cannot be opened has any, so far as it can be known."""
    names = _branches_beside(disk, path, None)
    view = map_file(disk, path, "a vector store")
    located = find_intact(view)
    if located is not None:
        with contextlib.suppress(HoldfastError, DamagedSegment):
            children = catalog_of(path, view, located).record.children
            names += [child.name for child in children if _is_there(disk, path, child)]
    _refuse_if_any(sorted(set(names)), path, doing)


def _refuse_if_any(names: list[str], path: str, doing: str) -> None:
    if names:
        raise HasBranches(
            f"cannot {doing} {path!r}: {len(names)} branches read its file: {', '.join(names[:5])}",
            path=path,
        )
