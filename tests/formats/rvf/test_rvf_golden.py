"""Files of the original read as it reads them, but for the improvements named here.

Section "Where upstream falls short" of the format's description says what is wrong with the
original. What concerns bytes alone and is different here:

* 1, 2: a manifest is found however far from the end it lies.
* 8, 9, 10: torn lengths, damaged manifests and embedded ones are not believed (test_scan.py).
* 9: headers of damaged segments are noticed where the directory leads to them; a missing hash is
  reported by ``is_unverifiable``, where the original takes it for a match.
* 5.1: rows that a segment claims and does not have are an error, not silence (test_vec.py).
* 5.2: so are deleted ids (test_manifest.py).
* 5.5: a plain kernel image is never reported as a binding (here and in test_images.py).
* 3: a payload that no reader would take is not written (test_segment.py, test_vec.py).
* 14: a lock file's checksum is checked (test_lock_file.py).
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.cow import (
    Cluster,
    ClusterTag,
    CowMap,
    Membership,
    decode_cow_map,
    decode_membership,
    encode_cow_map,
    encode_membership,
)
from holdfast.formats.rvf.images import (
    Dashboard,
    Ebpf,
    Kernel,
    KernelBinding,
    Wasm,
    decode_dashboard,
    decode_ebpf,
    decode_kernel,
    decode_wasm,
    encode_dashboard,
    encode_ebpf,
    encode_kernel,
    encode_wasm,
)
from holdfast.formats.rvf.journal import decode_journal, encode_journal
from holdfast.formats.rvf.manifest import Manifest, decode_manifest, encode_manifest
from holdfast.formats.rvf.scan import Located, find_manifest, walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentType,
    content_hash,
    decode_header,
    encode_header,
    is_intact,
    is_unverifiable,
    type_name,
)
from holdfast.formats.rvf.vec import encode_vec, view_rows
from holdfast.formats.rvf.witness import (
    CHAIN_START,
    decode_witness,
    encode_witness,
    entry_hash,
)
from tests.formats.rvf.reference import (
    DAMAGED,
    EXPECTED,
    NPM,
    Segment,
    load,
    load_npm,
    npm_vectors,
    recipe_vectors,
    segments,
)

FILES = sorted(EXPECTED)
NPM_FILES = sorted(NPM)
BRANCHES = [name for name in NPM_FILES if NPM[name]["depth"]]
METRICS = ["l2", "inner_product", "cosine"]


def _located(data: bytes) -> Located:
    located = find_manifest(memoryview(data))
    assert located is not None
    return located


def _payload(data: bytes, offset: int) -> bytes:
    header = decode_header(data, offset)
    assert header is not None
    start = offset + HEADER_BYTES
    payload = data[start : start + header.payload_bytes]
    assert is_intact(header, payload)
    return payload


def _rows(data: bytes, manifest: Manifest) -> dict[int, NDArray[np.float32]]:
    """The rows of a file by id: later ones win, deleted ones are gone."""
    rows: dict[int, NDArray[np.float32]] = {}
    for entry in manifest.entries:
        if entry.type == SegmentType.VEC:
            ids, vectors = view_rows(_payload(data, entry.offset))
            rows.update(zip(ids.tolist(), vectors, strict=True))
    for deleted in manifest.deleted.tolist():
        rows.pop(deleted, None)
    return rows


def _same(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    return left.shape == right.shape and left.tobytes() == right.tobytes()


def _nearest(rows: dict[int, NDArray[np.float32]], query: list[float]) -> list[tuple[int, float]]:
    """The five nearest by L2, in the arithmetic of the original: float32, in order."""
    found = []
    for number, vector in rows.items():
        distance = np.float32(0)
        for x, y in zip(vector, np.array(query, np.float32), strict=True):
            distance += (x - y) * (x - y)
        found.append((float(distance), number))
    return [(number, distance) for distance, number in sorted(found)[:5]]


# --- what every file has -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_segments(name: str) -> None:
    """The segments are the known ones, without gaps, and all intact."""
    data, expected = load(name), EXPECTED[name]
    steps = walk(memoryview(data))
    found = [[step.segment_id, at, step.payload_bytes, step.type] for at, step in steps]
    assert found == expected["segments_in_file_order"]
    assert (steps.end, steps.broken_at) == (expected["size"], None)
    end = 0
    for offset, header, payload in segments(data):
        assert offset == end
        assert is_intact(header, payload)
        assert not is_unverifiable(header)
        end = offset + HEADER_BYTES + len(payload)


@pytest.mark.parametrize("name", FILES)
def test_manifest(name: str) -> None:
    """The newest manifest says what the original reads out of it."""
    data, expected = load(name), EXPECTED[name]
    located = _located(data)
    manifest = located.manifest
    last = segments(data, SegmentType.MANIFEST)[-1]
    assert located.offset == last.offset
    assert located.end == last.offset + HEADER_BYTES + len(last.payload)
    assert located.refused is None
    assert manifest.epoch == expected["epoch"]
    assert manifest.dimension == expected["dimension"]
    assert manifest.total_vectors == expected["manifest_total_vectors"]
    assert manifest.profile == expected["profile"]
    assert manifest.metric == 0  # this version stores none, whatever the file was made with
    assert [list(entry) for entry in manifest.entries] == expected["segment_dir"]
    assert manifest.deleted.tolist() == expected["deleted_ids_in_manifest"]
    assert manifest.extension is None
    identity = manifest.identity
    assert identity is not None
    assert identity.file_id.hex() == expected["file_id"]
    assert identity.parent_id.hex() == expected["parent_id"]
    assert identity.parent_hash.hex() == expected["parent_hash"]
    assert identity.depth == expected["lineage_depth"]


def _recipe(name: str, ids: list[int], dimension: int) -> NDArray[np.float32]:
    """What a segment's rows were made from; two files say that theirs are special."""
    seed = 1100 if name == "branch_child.rvf" else EXPECTED[name]["seed"]
    rows = [900, 901] if name == "duplicate_ids.rvf" and ids == [2, 2] else ids
    return recipe_vectors(seed, rows, dimension)


@pytest.mark.parametrize("name", FILES)
def test_vectors(name: str) -> None:
    """Every row is the one the recipe gives, and the rows that live are the known ones."""
    data, expected = load(name), EXPECTED[name]
    for _, _, payload in segments(data, SegmentType.VEC):
        ids, vectors = view_rows(payload)
        assert _same(vectors, _recipe(name, ids.tolist(), expected["dimension"]))
    rows = _rows(data, _located(data).manifest)
    assert [float(number) for number in sorted(rows)] == expected["live_ids"]
    for number, vector in expected["sample_vectors"].items():
        assert _same(rows[min(int(number), (1 << 64) - 1)], np.array(vector, np.float32))
    nearest = _nearest(rows, expected["query"])
    assert [(float(number), np.float32(distance)) for number, distance in nearest] == [
        (number, np.float32(distance)) for number, distance in expected["top5_reopened_L2"]
    ]


@pytest.mark.parametrize("name", FILES)
def test_witnesses(name: str) -> None:
    """Entries and their hashes are the known ones, and so are the breaks in their chain."""
    previous = CHAIN_START
    found = []
    for _, header, payload in segments(load(name), SegmentType.WITNESS):
        witness = decode_witness(payload)
        hashed = entry_hash(payload)
        found.append(
            {
                "seg_id": header.segment_id,
                "witness_type": witness.type,
                "timestamp_ns": float(witness.timestamp_ns),
                "action": witness.action,
                "prev_hash": witness.previous_hash.hex(),
                "entry_hash": hashed.hex(),
                "links_to_previous": witness.previous_hash == previous,
            }
        )
        previous = hashed
    assert found == EXPECTED[name].get("witness", [])


def test_journal() -> None:
    """A journal lists all ids that were asked for, unknown ones too."""
    (journal,) = segments(load("deleted.rvf"), SegmentType.JOURNAL)
    decoded = decode_journal(journal.payload)
    assert (decoded.epoch, decoded.ids.tolist()) == (2, [3, 7, 11, 50, 9999])


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("branch_child.rvf", "branch_parent.rvf"),
        ("derived_child.rvf", "derive_parent.rvf"),
        ("derived_grandchild.rvf", "derived_child.rvf"),
        *[
            (f"npm-0.2.2/{name}", "npm-0.2.2/node_branch_parent.rvf")
            for name in BRANCHES
            if name != "node_grandchild.rvf"
        ],
        ("npm-0.2.2/node_grandchild.rvf", "npm-0.2.2/node_branch_child.rvf"),
    ],
)
def test_parents(child: str, parent: str) -> None:
    """A child names its parent by id, and by the hash of the parent's last 64 KiB."""
    ours = _located(load(child)).manifest.identity
    theirs = _located(load(parent)).manifest.identity
    assert ours is not None
    assert theirs is not None
    assert ours.parent_id == theirs.file_id
    assert ours.depth == theirs.depth + 1
    assert ours.parent_hash == addrot(load(parent)[-65536:])


# --- embedded programs ---------------------------------------------------------------------------

IMAGE = bytes(number * 7 % 251 for number in range(300))
KERNEL_FILES: list[tuple[str, Kernel]] = [
    (
        "kernel.rvf",
        Kernel(IMAGE, 0, 1, flags=0x18, port=8080, cmdline="console=ttyS0 quiet"),
    ),
    (
        "kernel_binding.rvf",
        Kernel(
            IMAGE,
            1,
            0,
            flags=0x10,
            port=9090,
            cmdline="console=ttyS0",
            binding=KernelBinding(b"\x11" * 32, b"\x22" * 32, 1, 2, 0x4022),
        ),
    ),
]


@pytest.mark.parametrize(("name", "kernel"), KERNEL_FILES)
def test_kernels(name: str, kernel: Kernel) -> None:
    """Both forms are told apart and read in full; the original finds a binding in both."""
    (segment,) = segments(load(name), SegmentType.KERNEL)
    expected = EXPECTED[name]["kernel"]
    assert segment.payload[:128].hex() == expected["header"]
    assert len(segment.payload) - 128 == expected["rest_len"]
    decoded = decode_kernel(segment.payload)
    assert decoded == kernel
    assert EXPECTED[name]["kernel_binding"] == segment.payload[128:256].hex()


@pytest.mark.parametrize(
    ("name", "ebpf"),
    [
        ("ebpf.rvf", Ebpf(bytes(range(64)), 0, 0, 1536, b"BTFDATA!")),
        ("compacted.rvf", Ebpf(bytes.fromhex("b7000000000000009500000000000000"), 2, 3, 128)),
    ],
)
def test_ebpf(name: str, ebpf: Ebpf) -> None:
    """The program and what it is for, also behind a compaction."""
    (segment,) = segments(load(name), SegmentType.EBPF)
    assert segment.payload.hex() == "".join(EXPECTED[name]["ebpf"].values())
    assert decode_ebpf(segment.payload) == ebpf


def test_wasm_and_dashboard() -> None:
    """The module and the bundle, which begins with its entry path."""
    data, expected = load("wasm_dashboard.rvf"), EXPECTED["wasm_dashboard.rvf"]
    (wasm,) = segments(data, SegmentType.WASM)
    assert wasm.payload.hex() == "".join(expected["wasm"].values())
    assert decode_wasm(wasm.payload) == Wasm(b"\0asm\1\0\0\0", 0, 0, 3, 14, priority=1)
    (dashboard,) = segments(data, SegmentType.DASHBOARD)
    assert dashboard.payload.hex() == "".join(expected["dashboard"].values())
    bundle = b"index.html<html></html>"
    decoded = decode_dashboard(dashboard.payload)
    assert decoded == Dashboard(bundle, 1, 10, build_time=1_795_176_177)
    assert decoded.bundle[: decoded.entry_path_bytes] == b"index.html"


# --- bytes that are a pure function of the values ------------------------------------------------


def _again(kind: int, payload: bytes) -> bytes | None:
    """The payload decoded and encoded; None for an index, of which nothing is read."""
    match kind:
        case SegmentType.VEC:
            return bytes(encode_vec(*view_rows(payload)))
        case SegmentType.MANIFEST:
            return encode_manifest(decode_manifest(payload))
        case SegmentType.JOURNAL:
            return encode_journal(decode_journal(payload))
        case SegmentType.WITNESS:
            return encode_witness(decode_witness(payload))
        case SegmentType.KERNEL:
            return encode_kernel(decode_kernel(payload))
        case SegmentType.EBPF:
            return encode_ebpf(decode_ebpf(payload))
        case SegmentType.WASM:
            return encode_wasm(decode_wasm(payload))
        case SegmentType.DASHBOARD:
            return encode_dashboard(decode_dashboard(payload))
        case SegmentType.COW_MAP:
            return encode_cow_map(decode_cow_map(payload))
        case SegmentType.MEMBERSHIP:
            return encode_membership(decode_membership(payload))
    assert kind == SegmentType.INDEX
    return None


@pytest.mark.parametrize(
    "name",
    [*FILES, "damaged/big_delete_list.rvf", *(f"npm-0.2.2/{name}" for name in NPM_FILES)],
)
def test_written_again(name: str) -> None:
    """Every segment, decoded and encoded, is the original's byte for byte, header included."""
    data = load(name)
    for offset, header, payload in segments(data):
        again = _again(header.type, payload)
        assert again is None or again == payload
        head = encode_header(header.type, header.segment_id, len(payload), content_hash(payload))
        assert head == data[offset : offset + HEADER_BYTES]


# --- damage --------------------------------------------------------------------------------------

# What is found in each damaged file: epoch, rows that live, offset where the good part ends.
FOUND: dict[str, tuple[int, int, int]] = {
    "torn_manifest.rvf": (1, 60, 3001),
    "torn_vec.rvf": (1, 60, 3001),
    "manifest_epoch_flipped.rvf": (1, 60, 3001),
    "vec_flipped.rvf": (2, 100, 5115),
    "vec_flipped_zero_hash.rvf": (2, 100, 5115),
    "zero_tail_60k.rvf": (2, 100, 5115),
    "zero_tail_70k.rvf": (2, 100, 5115),
    "big_delete_list.rvf": (4, 850, 595403),
}
# Where that is not what the original's source tree makes of the file, and why it is better.
IMPROVED: dict[str, str] = {
    "manifest_epoch_flipped.rvf": "it has epoch 18: it never checks a manifest's hash (9)",
    "zero_tail_70k.rvf": "it finds no manifest: it looks at the last 64 KiB only (2)",
    "big_delete_list.rvf": "it finds no manifest: this one is larger than 64 KiB (1)",
}


def _live_count(manifest: Manifest) -> int:
    return manifest.total_vectors - len(manifest.deleted)


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damaged(name: str) -> None:
    """A damaged file opens in the newest state that is intact."""
    data = load(f"damaged/{name}")
    located = _located(data)
    epoch, live, _ = FOUND[name]
    assert (located.manifest.epoch, _live_count(located.manifest), located.end) == FOUND[name]
    assert located.refused is None
    original = DAMAGED[name]["upstream_source_0.2.0"]
    if name == "vec_flipped.rvf":
        assert original == "RVF error code 0x0102"
        with pytest.raises(AssertionError):  # the hash of the rows does not match, as it says
            _rows(data, located.manifest)
        return
    assert len(_rows_unchecked(data, located.manifest)) == live
    assert (original == {"live_count": live, "epoch": epoch}) == (name not in IMPROVED)


def _rows_unchecked(data: bytes, manifest: Manifest) -> set[int]:
    ids: set[int] = set()
    for entry in manifest.entries:
        if entry.type == SegmentType.VEC:
            start = entry.offset + HEADER_BYTES
            ids.update(view_rows(data[start : start + entry.payload_bytes])[0].tolist())
    return ids - set(manifest.deleted.tolist())


def test_a_missing_hash_is_seen() -> None:
    """Rows without a hash read like any others, but whoever reads them is told."""
    damaged = load("damaged/vec_flipped_zero_hash.rvf")
    first, second = segments(damaged, SegmentType.VEC)
    assert is_unverifiable(first.header)
    assert not is_intact(first.header, first.payload)
    assert not is_unverifiable(second.header)
    good = segments(load("small_l2.rvf"), SegmentType.VEC)[0]
    assert sum(x != y for x, y in zip(first.payload, good.payload, strict=True)) == 1


def test_a_torn_tail_says_where() -> None:
    """The walk ends at the segment that is cut."""
    for name, end in (("torn_manifest.rvf", 4803), ("torn_vec.rvf", 3001)):
        steps = walk(memoryview(load(f"damaged/{name}")))
        list(steps)
        assert (steps.end, steps.broken_at) == (end, end)


# --- files of the published binary ---------------------------------------------------------------


@pytest.mark.parametrize("name", NPM_FILES)
def test_npm_manifest(name: str) -> None:
    """Metric, directory and identity are what the binary itself reports of its file."""
    data, expected = load_npm(name), NPM[name]
    located = _located(data)
    manifest = located.manifest
    assert (located.end, located.refused) == (len(data), None)
    assert METRICS[manifest.metric] == expected["metric"]
    assert manifest.dimension == expected["dimension"]
    assert [
        {
            "id": entry.segment_id,
            "offset": entry.offset,
            "payloadLength": entry.payload_bytes,
            "segType": type_name(entry.type),
        }
        for entry in manifest.entries
    ] == expected["segments"]
    identity = manifest.identity
    assert identity is not None
    assert identity.file_id.hex() == expected["fileId"]
    assert identity.parent_id.hex() == expected["parentId"]
    assert identity.depth == expected["depth"]
    status = expected["status"]
    assert _live_count(manifest) == status["totalVectors"]
    assert len(manifest.entries) == status["totalSegments"]
    assert manifest.epoch == status["currentEpoch"]
    assert manifest.profile == status["profileId"]
    assert len(data) == status["fileSize"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("node_cosine.rvf", 1),
        ("node_ip.rvf", 1),
        ("node_branch_parent.rvf", 1),
        ("node_index.rvf", 0),
    ],
)
def test_npm_vectors(name: str, first: int) -> None:
    """The rows are the ones the binary was given."""
    (segment,) = segments(load_npm(name), SegmentType.VEC)
    ids, vectors = view_rows(segment.payload)
    assert ids.tolist() == list(range(first, first + len(ids)))
    assert _same(vectors, npm_vectors(len(ids)))


def _last(name: str, kind: int) -> Segment:
    """The segment of that type that the newest manifest lists last."""
    entries = [entry for entry in _located(load_npm(name)).manifest.entries if entry.type == kind]
    return next(part for part in segments(load_npm(name)) if part.offset == entries[-1].offset)


@pytest.mark.parametrize("name", BRANCHES)
def test_npm_cow_map(name: str) -> None:
    """A branch refers to its parent's file by name, id and hash, through one cluster."""
    data = load_npm(name)
    parent = "node_branch_child.rvf" if name == "node_grandchild.rvf" else "node_branch_parent.rvf"
    identity = _located(data).manifest.identity
    assert identity is not None
    assert decode_cow_map(_last(name, SegmentType.COW_MAP).payload) == CowMap(
        parent_name=parent,
        parent_id=identity.parent_id,
        parent_hash=identity.parent_hash,
        cluster_bytes=4096,
        vectors_per_cluster=4096 // 16,
        bytes_per_vector=16,
        frozen=name == "node_branch_frozen.rvf",
        snapshot_epoch=0,
        clusters=(Cluster(ClusterTag.IN_PARENT, 0),),
    )


@pytest.mark.parametrize(
    ("name", "count", "ids"),
    [
        ("node_branch_untouched.rvf", 11, [1, 2, 3, 5, 6, 7, 8, 9, 10]),
        ("node_branch_frozen.rvf", 11, [1, 2, 3, 5, 6, 7, 8, 9, 10]),
        ("node_branch_child.rvf", 11, [2, 3, 5, 6, 7, 8, 9, 10]),
        ("node_grandchild.rvf", 71, [2, 70]),
    ],
)
def test_npm_membership(name: str, count: int, ids: list[int]) -> None:
    """The bitmap has a bit for every id up to the parent's largest, set for those that live there.

    The one the child deleted is cleared in it. Made from the ids alone it is the binary's byte for
    byte: generation 0, and the hash is the ADDROT of the bitmap.
    """
    payload = _last(name, SegmentType.MEMBERSHIP).payload
    membership = decode_membership(payload)
    assert (membership.vector_count, membership.ids().tolist()) == (count, ids)
    assert (membership.exclude, membership.generation) == (False, 0)
    assert encode_membership(Membership.of(np.array(ids, np.uint64), count)) == payload


@pytest.mark.parametrize("name", BRANCHES)
def test_npm_branches(name: str) -> None:
    """A branch shows its own rows, and of its parent's those that the bitmap says."""
    data = load_npm(name)
    parent_name = decode_cow_map(_last(name, SegmentType.COW_MAP).payload).parent_name
    parent = load_npm(parent_name)
    inherited = _rows(parent, _located(parent).manifest)
    shown = decode_membership(_last(name, SegmentType.MEMBERSHIP).payload).shows(
        np.array(sorted(inherited), np.uint64)
    )
    rows = {
        number: inherited[number]
        for number, show in zip(sorted(inherited), shown, strict=True)
        if show
    }
    rows |= _rows(data, _located(data).manifest)
    expected: list[dict[str, Any]] = NPM[name]["top5"]
    assert _nearest(rows, NPM[name]["query"]) == [
        (item["id"], item["distance"]) for item in expected
    ]


def test_npm_index_is_not_read() -> None:
    """The binary's index is passed over; a damaged one leaves the rows alone."""
    data = bytearray(load_npm("node_index.rvf"))
    (index,) = segments(bytes(data), SegmentType.INDEX)
    data[index.offset + HEADER_BYTES] ^= 1
    located = _located(bytes(data))
    assert len(_rows(bytes(data), located.manifest)) == 1500


def test_refusals_are_typed() -> None:
    """Each decoder refuses the payloads of every other type with InvalidFormat, or reads them."""
    parts = [part for name in ("kernel.rvf", "wasm_dashboard.rvf") for part in segments(load(name))]
    parts += segments(load_npm("node_branch_child.rvf"))
    kinds = {part.header.type for part in parts}
    assert len(kinds) == 9
    for part in parts:
        for kind in kinds:
            try:
                _again(kind, part.payload)
            except InvalidFormat:
                assert kind != part.header.type
