"""Every file of the original, opened as a store: what it holds is what the original says it holds.

What the original does worse, and is different here, by the files that show it:

* segments(): former manifests, journals and witnesses are in no directory of ours.
* big_delete_list, zero_tail_70k: the manifest is found wherever it lies (section "falls short", 1).
* manifest_epoch_flipped: a manifest whose hash does not match is not believed (9).
* damaged/torn_*: the torn tail is cut, and kept beside the file (8).
* node_grandchild: a branch of a branch shows the rows of both (12); node_branch_*: so it counts.
* node_branch_frozen: what was frozen stays frozen (12).
* node_branch_*: a parent that goes on leaves its branches as they are (12).
* metadata.rvf: there is none in the file (7); later ones are kept.
* audited_tail, compacted: the witnesses behind the manifest are part of the chain, which goes on.
* reingest_deleted: an id that the file hides can be used again (6).

What cannot be better, since the file does not say it: cosine.rvf and inner_product.rvf are read as
L2 (11); branch_child.rvf of the source tree does not refer to its parent's rows (12).
"""

import os
from typing import Any

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import ParentChanged, StoreCorrupt, StoreFrozen
from holdfast.formats.rvf.segment import SegmentType, type_name
from holdfast.formats.rvf.terms import Metric
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted, StoreStatus
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vectors import VectorsActor
from tests.formats.rvf.reference import (
    DAMAGED,
    EXPECTED,
    NPM,
    load,
    npm_vectors,
    recipe_vectors,
    segments,
)
from tests.workers.vector_model import (
    ask,
    check_query,
    ids_in,
    opened,
    opened_read_only,
    rows_in,
    state_of,
    without_waiting,
)

pytestmark = pytest.mark.usefixtures("quiet")

U64_MAX = (1 << 64) - 1
FILES = sorted(EXPECTED)
NPM_FILES = sorted(NPM)
UNLISTED = {SegmentType.MANIFEST, SegmentType.JOURNAL, SegmentType.WITNESS}
METRICS: dict[str, Metric] = {"l2": "l2", "inner_product": "ip", "cosine": "cosine"}
# Branches of the published binary, by the rows of their parents that they show.
INHERITED = {
    "node_branch_untouched.rvf": [1, 2, 3, 5, 6, 7, 8, 9, 10],
    "node_branch_frozen.rvf": [1, 2, 3, 5, 6, 7, 8, 9, 10],
    "node_branch_child.rvf": [3, 5, 6, 7, 8, 9, 10],
    "node_grandchild.rvf": [2, 70],
}
OWN = {"node_branch_child.rvf": [2, 70]}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


def _disk(folder: str = "") -> MemoryDisk:
    """All files of a folder, under the names that their children know."""
    disk = MemoryDisk("/data")
    names = {"": FILES, "npm-0.2.2": NPM_FILES, "damaged": sorted(DAMAGED)}[folder]
    for name in names:
        disk.place(f"/data/{name}", load(os.path.join(folder, name)))
    return disk


class Golden:
    """One file of the original, as a store of ours and for reading only."""

    def __init__(self, name: str, folder: str = "") -> None:
        self.disk = _disk(folder)
        self.path = f"/data/{name}"
        self.before = load(os.path.join(folder, name))

    def actors(self) -> list[VectorsActor]:
        """A reader, and the owner."""
        return [
            opened_read_only(self.disk, self.path),
            opened(self.disk, self.path, dimension=None),
        ]


def _id(number: float) -> int:
    return min(int(number), U64_MAX)


def _vectors(actor: VectorsActor, ids: list[int]) -> bytes:
    rows = ask(actor, vm.VectorsGet(raw(np.array(ids, np.uint64))), vm.VectorRows)
    assert ids_in(rows.ids) == ids
    assert rows.vectors is not None
    return bytes(rows.vectors)


def _recipe(name: str, ids: list[int], dimension: int) -> bytes:
    seed = 1100 if name == "branch_child.rvf" else EXPECTED[name]["seed"]
    special = {2: 901} if name == "duplicate_ids.rvf" else {}
    return recipe_vectors(seed, [special.get(n, n) for n in ids], dimension).tobytes()


def _top5(actor: VectorsActor, query: list[float]) -> list[tuple[int, float]]:
    request = vm.VectorsQuery(raw(np.array(query, np.float32)), 1, 5)
    hits = ask(actor, request, vm.Hits)
    distances = np.frombuffer(hits.distances, "<f4").tolist()
    return list(zip(ids_in(hits.ids), distances, strict=True))


def _assert_nearest(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [number for number, _ in found] == [number for number, _ in expected]
    assert [d for _, d in found] == pytest.approx([d for _, d in expected], rel=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_rows(name: str) -> None:
    """Ids, vectors and the nearest five, whoever opens the file; opening changes nothing."""
    golden, expected = Golden(name), EXPECTED[name]
    for actor in golden.actors():
        live = sorted(map(_id, expected["live_ids"]))
        rows = rows_in(ask(actor, vm.VectorsScan(), vm.VectorRows))
        assert list(rows) == live
        assert all(row.metadata == () for row in rows.values())
        assert _vectors(actor, live) == _recipe(name, live, expected["dimension"])
        nearest = [(_id(number), d) for number, d in expected["top5_reopened_L2"]]
        _assert_nearest(_top5(actor, expected["query"]), nearest)
        if expected["metric_at_write"] == "L2":
            assert expected["top5_live"] == expected["top5_reopened_L2"]
        actor.check_invariants()
        actor.close()
    assert golden.disk.content(golden.path) == golden.before


@pytest.mark.parametrize("name", FILES)
def test_facts(name: str) -> None:
    """Epoch, dimension, identity and the directory."""
    golden, expected = Golden(name), EXPECTED[name]
    for actor in golden.actors():
        status = ask(actor, StoreStatus(), vm.VectorStatus)
        assert (status.epoch, status.dimension) == (expected["epoch"], expected["dimension"])
        assert status.metric == "l2"
        assert status.profile == ("text" if name.endswith(".rvtext") else "generic")
        assert status.live_rows == len(expected["live_ids"])
        assert status.file_bytes == expected["size"]
        assert not status.frozen
        identity = ask(actor, vm.VectorsLineage(), vm.Lineage).identity
        assert identity.file_id == expected["file_id"]
        assert identity.parent_id == expected["parent_id"]
        assert identity.parent_hash == expected["parent_hash"]
        assert identity.lineage_depth == expected["lineage_depth"]
        assert identity.origin == ("derived" if expected["lineage_depth"] else "root")
        listed = ask(actor, vm.VectorsSegments(), vm.Segments).segments
        found = [[s.id, s.offset, s.length, s.type] for s in listed]
        assert found == [entry for entry in expected["segment_dir"] if entry[3] not in UNLISTED]
        assert [s.name for s in listed] == [type_name(s.type) for s in listed]
        actor.close()


@pytest.mark.parametrize("name", FILES)
def test_verified(name: str) -> None:
    """Every segment is intact, and a chain of witnesses begins anew where the original began it."""
    golden, expected = Golden(name), EXPECTED[name]
    for actor in golden.actors():
        verified = ask(actor, vm.VectorsVerify(), vm.Verified)
        assert verified.problems == []
        assert [[s.id, s.offset, s.length] for s in verified.segments] == [
            entry[:3] for entry in expected["segments_in_file_order"]
        ]
        links = [link["links_to_previous"] for link in expected.get("witness", [])]
        assert (verified.witnesses, verified.witness_restarts) == (len(links), links.count(False))
        assert verified.witness_breaks == 0
        assert [a.problem for a in verified.ancestors] == [None] * expected["lineage_depth"]
        actor.close()


PARENTS = {
    "branch_child.rvf": ["branch_parent.rvf"],
    "derived_child.rvf": ["derive_parent.rvf"],
    "derived_grandchild.rvf": ["derived_child.rvf", "derive_parent.rvf"],
}


@pytest.mark.parametrize("name", PARENTS)
def test_lineage(name: str) -> None:
    """Parents are found by their ids, since the files do not name them."""
    golden = Golden(name)
    for actor in golden.actors():
        lineage = ask(actor, vm.VectorsLineage(), vm.Lineage)
        parents = PARENTS[name]
        assert [a.path for a in lineage.ancestors] == [f"/data/{parent}" for parent in parents]
        assert [a.file_id for a in lineage.ancestors] == [EXPECTED[p]["file_id"] for p in parents]
        assert ask(actor, vm.VectorsCow(), vm.CowStats).is_cow_child is False
        actor.close()


IMAGES: list[tuple[str, vm.ImageKind, SegmentType]] = [
    ("kernel.rvf", "kernel", SegmentType.KERNEL),
    ("kernel_binding.rvf", "kernel", SegmentType.KERNEL),
    ("ebpf.rvf", "ebpf", SegmentType.EBPF),
    ("compacted.rvf", "ebpf", SegmentType.EBPF),
    ("wasm_dashboard.rvf", "wasm", SegmentType.WASM),
    ("wasm_dashboard.rvf", "dashboard", SegmentType.DASHBOARD),
]


def _image(actor: VectorsActor, kind: vm.ImageKind) -> bytes | None:
    payload = ask(actor, vm.VectorsExtract(kind), vm.Image).payload
    return None if payload is None else bytes(payload)


@pytest.mark.parametrize(("name", "kind", "type_"), IMAGES)
def test_images(name: str, kind: vm.ImageKind, type_: SegmentType) -> None:
    """The image comes back whole, also behind a compaction of ours."""
    golden = Golden(name)
    (segment,) = segments(golden.before, type_)
    reader, owner = golden.actors()
    assert _image(reader, kind) == segment.payload
    ask(owner, vm.VectorsCompact(), Compacted)
    owner.close()
    again = opened(golden.disk, golden.path, dimension=None)
    assert _image(again, kind) == segment.payload
    other: vm.ImageKind = "wasm" if kind == "ebpf" else "ebpf"
    assert _image(again, other) is None


@pytest.mark.parametrize("name", FILES)
def test_written_on(name: str) -> None:
    """A file of the original goes on as a store of ours: rows, deletes, compaction, witnesses."""
    golden, expected = Golden(name), EXPECTED[name]
    actor = opened(golden.disk, golden.path, dimension=None)
    state = state_of(golden.disk, actor)
    dimension = expected["dimension"]
    fresh = recipe_vectors(1, [7, 8], dimension)
    new = vm.VectorsIngest(raw(np.array([2, 500], np.uint64)), raw(fresh))
    reply = ask(actor, new, vm.Ingested, Caller(1, 1))
    assert (reply.accepted, reply.replaced) == (2, len({2, 500} & state.rows.keys()))
    assert reply.epoch == expected["epoch"] + 1
    live = sorted(state.rows.keys() | {2, 500})
    for _ in range(2):
        assert list(rows_in(ask(actor, vm.VectorsScan(), vm.VectorRows))) == live
        assert _vectors(actor, [2, 500]) == fresh.tobytes()
        verified = ask(actor, vm.VectorsVerify(), vm.Verified)
        assert verified.problems == []
        ids = [segment.id for segment in verified.segments]
        assert len(set(ids[-2:]) | set(ids[:-2])) == len(set(ids[:-2])) + 2  # new ids are new
        ask(actor, vm.VectorsCompact(), Compacted)
        actor.close()
        actor = opened(golden.disk, golden.path, dimension=None)
    identity = ask(actor, vm.VectorsLineage(), vm.Lineage).identity
    assert identity.file_id == expected["file_id"]


# --- damage --------------------------------------------------------------------------------------

# Rows that live, epoch, and the first bytes that are torn.
FOUND: dict[str, tuple[int, int, int | None]] = {
    "torn_manifest.rvf": (60, 1, 3001),
    "torn_vec.rvf": (60, 1, 3001),
    "manifest_epoch_flipped.rvf": (60, 1, 3001),
    "vec_flipped_zero_hash.rvf": (100, 2, None),
    "zero_tail_60k.rvf": (100, 2, None),
    "zero_tail_70k.rvf": (100, 2, None),
    "big_delete_list.rvf": (850, 4, None),
}


@pytest.mark.parametrize("name", FOUND)
def test_damaged(name: str) -> None:
    """The newest state that is intact, and what is torn is kept beside the file."""
    live, epoch, torn_at = FOUND[name]
    golden = Golden(name, "damaged")
    for actor in golden.actors():
        status = ask(actor, StoreStatus(), vm.VectorStatus)
        assert (status.live_rows, status.epoch) == (live, epoch)
        if name not in ("big_delete_list.rvf", "vec_flipped_zero_hash.rvf"):
            ids = list(range(1, live + 1))
            assert _vectors(actor, ids) == _recipe("small_l2.rvf", ids, 8)
        actor.check_invariants()
        actor.close()
    torn = golden.disk.content(f"{golden.path}.cut1")
    assert torn == (None if torn_at is None else golden.before[torn_at:])


def test_a_damaged_vector_segment_is_located() -> None:
    """It is an error with an offset; checking tells of it, and of what is intact."""
    golden = Golden("vec_flipped.rvf", "damaged")
    for open_ in (opened_read_only, opened):
        with pytest.raises(StoreCorrupt) as caught:
            open_(golden.disk, golden.path)
        assert (caught.value.path, caught.value.offset) == (golden.path, 162)
    assert golden.disk.content(golden.path) == golden.before


def test_a_missing_hash_is_told() -> None:
    """Nobody can say whether the rows are right, and verify() says so."""
    golden = Golden("vec_flipped_zero_hash.rvf", "damaged")
    for actor in golden.actors():
        verified = ask(actor, vm.VectorsVerify(), vm.Verified)
        states = {s.offset: s.state for s in verified.segments if s.type == "vec"}
        assert states == {162: "unverifiable", 3001: "intact"}
        actor.close()


def test_a_long_list_of_deleted_ids_is_shortened() -> None:
    """Readers of the original's source tree can open the file again."""
    golden = Golden("big_delete_list.rvf", "damaged")
    actor = opened(golden.disk, golden.path, dimension=None)
    live = ids_in(ask(actor, vm.VectorsScan(), vm.VectorRows).ids)
    actor.close()
    content = golden.disk.content(golden.path)
    assert content is not None
    last = segments(content, SegmentType.MANIFEST)[-1]
    assert len(content) - last.offset <= 65_536
    actor = opened(golden.disk, golden.path, dimension=None)
    assert ids_in(ask(actor, vm.VectorsScan(), vm.VectorRows).ids) == live


# --- the published binary ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NPM_FILES)
def test_npm_rows(name: str) -> None:
    """Metric, nearest rows and identity are the ones that the binary reports of its file."""
    golden, expected = Golden(name, "npm-0.2.2"), NPM[name]
    metric = METRICS[expected["metric"]]
    for actor in golden.actors():
        status = ask(actor, StoreStatus(), vm.VectorStatus)
        assert (status.metric, status.dimension) == (metric, expected["dimension"])
        assert status.epoch == expected["status"]["currentEpoch"]
        inherited = INHERITED.get(name, [])
        assert status.live_rows == expected["status"]["totalVectors"] + len(inherited)
        top5 = [(item["id"], item["distance"]) for item in expected["top5"]]
        _assert_nearest(_top5(actor, expected["query"]), top5)
        state = state_of(golden.disk, actor)
        check_query(actor, state, [expected["query"]], 20, metric)
        lineage = ask(actor, vm.VectorsLineage(), vm.Lineage)
        identity = lineage.identity
        assert identity.file_id == expected["fileId"]
        assert (identity.parent_id, identity.lineage_depth) == (
            expected["parentId"],
            expected["depth"],
        )
        assert identity.origin == ("branch" if expected["depth"] else "root")
        listed = ask(actor, vm.VectorsSegments(), vm.Segments).segments
        assert [(s.id, s.offset, s.length, s.name) for s in listed] == _listed(expected)
        actor.close()
    assert golden.disk.content(golden.path) == golden.before


def _listed(expected: dict[str, Any]) -> list[tuple[int, int, int, str]]:
    """The directory without what is in none of ours; vectors come first."""
    unlisted = {type_name(kind) for kind in UNLISTED}
    entries = [
        (entry["id"], entry["offset"], entry["payloadLength"], entry["segType"])
        for entry in expected["segments"]
        if entry["segType"] not in unlisted
    ]
    return sorted(entries, key=lambda entry: entry[3] != "vec")


@pytest.mark.parametrize("name", INHERITED)
def test_npm_branches(name: str) -> None:
    """A branch shows its parents' rows, also those of a grandparent."""
    golden = Golden(name, "npm-0.2.2")
    for actor in golden.actors():
        rows = rows_in(ask(actor, vm.VectorsScan(), vm.VectorRows))
        own = OWN.get(name, [])
        assert sorted(rows) == sorted(INHERITED[name] + own)
        given = dict(enumerate(map(tuple, npm_vectors(10).tolist()), 1))
        assert all(rows[n].vector == given[n] for n in INHERITED[name] if n in given and n != 2)
        stats = ask(actor, vm.VectorsCow(), vm.CowStats)
        parent = (
            "node_branch_child.rvf" if name == "node_grandchild.rvf" else ("node_branch_parent.rvf")
        )
        assert (stats.is_cow_child, stats.parent_path) == (True, f"/data/{parent}")
        assert (stats.inherited_rows, stats.local_rows) == (len(INHERITED[name]), len(own))
        ancestors = ask(actor, vm.VectorsLineage(), vm.Lineage).ancestors
        assert [a.problem for a in ancestors] == [None] * NPM[name]["depth"]
        actor.close()


def test_npm_grandchild_reads_its_grandparent() -> None:
    """The binary loses these rows: it limits a branch's branch to the middle file's own ids.

    What its bitmap shows is shown; the rest of the grandparent is there once the bitmap lets it.
    """
    golden = Golden("node_branch_child.rvf", "npm-0.2.2")
    actor = opened(golden.disk, golden.path)
    ask(actor, vm.VectorsBranch("/data/own_grandchild.rvf"), object)
    child = opened_read_only(golden.disk, "/data/own_grandchild.rvf")
    rows = rows_in(ask(child, vm.VectorsScan(), vm.VectorRows))
    assert sorted(rows) == [2, 3, 5, 6, 7, 8, 9, 10, 70]
    assert rows == rows_in(ask(actor, vm.VectorsScan(), vm.VectorRows))


def test_npm_frozen_branch() -> None:
    """The binary writes down that a branch is frozen, and forgets it; here it is kept."""
    golden = Golden("node_branch_frozen.rvf", "npm-0.2.2")
    actor = opened(golden.disk, golden.path)
    assert ask(actor, StoreStatus(), vm.VectorStatus).frozen
    with pytest.raises(StoreFrozen):
        actor.handle(vm.VectorsDelete(raw(np.array([1], np.uint64))), Caller(1, 1))


def test_npm_parent_goes_on() -> None:
    """The binary refuses a branch whose parent was written to; here the commit is looked for."""
    golden = Golden("node_branch_child.rvf", "npm-0.2.2")
    parent = opened(golden.disk, "/data/node_branch_parent.rvf", dimension=None)
    ask(parent, vm.VectorsDelete(raw(np.array([5, 6, 7], np.uint64))), vm.Deleted, Caller(1, 1))
    parent.close()
    actor = opened(golden.disk, golden.path)
    top5 = [(item["id"], item["distance"]) for item in NPM["node_branch_child.rvf"]["top5"]]
    _assert_nearest(_top5(actor, [0, 0, 0, 0]), top5)


@pytest.mark.parametrize("name", INHERITED)
def test_npm_parent_gone(name: str) -> None:
    """Without its parent a branch is an error that names the parent's path."""
    golden = Golden(name, "npm-0.2.2")
    golden.disk.remove("/data/node_branch_parent.rvf")
    with pytest.raises(ParentChanged) as caught:
        opened(golden.disk, golden.path)
    assert caught.value.path == "/data/node_branch_parent.rvf"
    assert golden.disk.content(golden.path) == golden.before
