"""Segment by segment: what each side carries along of what only the other knows."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

import holdfast
from holdfast.formats.rvf.images import Dashboard, Ebpf, Kernel, KernelBinding, Wasm, decode_kernel
from holdfast.formats.rvf.scan import find_manifest
from holdfast.formats.rvf.segment import SegmentType
from tests.interop.original import Original, decode, encode
from tests.interop.ours import (
    DIMENSION,
    Rows,
    check_ours,
    check_theirs,
    engine_in,
    metadata_of,
    put,
    random_vectors,
    remove,
    segments_of,
)


def test_our_segments_survive_its_compaction(original: Original, tmp_path: Path) -> None:
    """Store record, hidden ids and metadata come out byte for byte, and count afterwards."""
    vectors = random_vectors(40, 1)
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION, metric="ip", profile="text")
        parent.ingest(range(20), vectors[:20])
        child = parent.branch("child", exclude=[18, 19])
        child.ingest(range(15, 25), vectors[20:30], metadata={"n": list(range(10))})
        child.delete([0, 1, 15])
        child.freeze()
        rows = {number: vectors[number] for number in range(2, 15)}
        put(rows, range(16, 25), vectors[21:30])
        check_ours(child, rows)
        metadata = metadata_of(child)
    path = tmp_path / "child.rvf"
    kinds = {SegmentType.STORE, SegmentType.HIDDEN, SegmentType.META}
    before = [segment for segment in segments_of(path) if segment[0] in kinds]
    assert {kind for kind, _ in before} == kinds
    with original.open(path) as there:
        check_theirs(there, rows, "ip")
        there.ask("compact")
        check_theirs(there, rows, "ip")
    assert [segment for segment in segments_of(path) if segment[0] in kinds] == before
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        check_ours(child, rows)
        assert (child.metric, child.profile, child.status().frozen) == ("ip", "text", True)
        assert metadata_of(child) == metadata
        with pytest.raises(holdfast.StoreFrozen):
            child.ingest([1], vectors[:1])


def test_superseded_segments_do_not_come_back(original: Original, tmp_path: Path) -> None:
    """Its compaction lists old metadata and records again; the newest of each still counts."""
    vectors = random_vectors(20, 1)
    rows: Rows = {}
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        for version in range(5):
            store.ingest(range(20), vectors, metadata={"version": [version] * 20})
        put(rows, range(20), vectors)
        store.ingest([0], vectors[:1])  # without metadata
        store.delete([1])
        store.ingest([1], vectors[1:2], metadata={"version": [7]})
        store.branch("gone")  # the second record, and the third
        engine.drop("gone")
        store.compact()
        store.ingest([2], vectors[2:3], metadata={"version": [8]})
        store.freeze()
        expected = {number: {"version": 4} for number in range(20)}
        expected |= {0: {"version": None}, 1: {"version": 7}, 2: {"version": 8}}  # type: ignore[dict-item]
        assert metadata_of(store) == expected
    with original.open(tmp_path / "docs.rvf") as there:
        for _ in range(2):
            there.delete([5])
            there.ask("compact")
        remove(rows, [5])
        check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        del expected[5]
        assert metadata_of(store) == expected
        assert store.count(pc.field("version") == 4) == 16
        assert store.status().frozen


def test_its_commits_lose_our_manifest_extension_and_nothing_else(
    original: Original, tmp_path: Path
) -> None:
    """Behind a manifest of its own our segment ids go on rising and generations too."""
    path = tmp_path / "docs.rvf"

    def extended() -> bool:
        located = find_manifest(memoryview(path.read_bytes()))
        assert located is not None
        return located.manifest.extension is not None

    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        store.ingest([1, 2], random_vectors(2, 1), metadata={"n": [1, 2]})
        ids = [segment.id for segment in store.segments()]
    assert extended()
    with original.open(path) as there:
        there.ingest([3], random_vectors(1, 2))
    assert not extended()
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        store.ingest([1], random_vectors(1, 3), metadata={"n": [10]})
        new = [segment.id for segment in store.segments() if segment.id not in ids]
        assert sorted(new) == new
        assert min(new) > max(ids)
        assert metadata_of(store) == {1: {"n": 10}, 2: {"n": 2}, 3: {"n": None}}
    assert extended()


def test_unlisted_witnesses_stay_and_the_chain_goes_on(original: Original, tmp_path: Path) -> None:
    """It reads a file whose witnesses no directory lists, keeps them, and ours follow its own."""
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        for number in range(5):
            store.ingest([number], random_vectors(1, number))
    path = tmp_path / "docs.rvf"
    before = [payload for kind, payload in segments_of(path) if kind == SegmentType.WITNESS]
    assert len(before) == 5
    with original.open(path) as there:
        listed = [segment["segType"] for segment in there.ask("segments")]
        assert "witness" not in listed
        assert there.ask("witness")["valid"]
        there.ask("compact")  # its own witness comes behind the manifest, in no directory
    after = [payload for kind, payload in segments_of(path) if kind == SegmentType.WITNESS]
    assert after[:5] == before
    assert len(after) == 6
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        store.ingest([9], random_vectors(1, 9))
        store.compact()
        found = store.verify()
        assert (found.witnesses, found.witness_breaks, found.problems) == (8, 0, [])


IMAGE = bytes(range(256)) * 5
BINDING = KernelBinding(bytes(range(32)), bytes(range(32, 64)), allowed_segments=3)


@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "bound"])
def test_images_of_ours_are_read_and_kept(
    binding: KernelBinding | None, original: Original, tmp_path: Path
) -> None:
    """It extracts our kernel and eBPF program, and its compaction keeps all four kinds of image."""
    rows: Rows = {}
    vectors = random_vectors(10, 1)
    kernel = Kernel(IMAGE, 1, 2, 0b101, 8080, "console=ttyS0", binding)
    ebpf = Ebpf(b"\x95" + bytes(7), 3, 4, 384, b"types")
    wasm = Wasm(b"\0asm" + bytes(40), 1, 2, 3, 4)
    dashboard = Dashboard(b"index.html<html></html>", 1, 10, 1_700_000_000)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        store.ingest(range(10), vectors)
        put(rows, range(10), vectors)
        store.embed_kernel(kernel)
        store.embed_ebpf(ebpf)
        store.embed_wasm(wasm)
        store.embed_dashboard(dashboard)
    with original.open(tmp_path / "docs.rvf") as there:
        check_theirs(there, rows)
        found = there.ask("extractKernel")
        assert decode_kernel(decode(found["header"]) + decode(found["image"])) == kernel
        found = there.ask("extractEbpf")
        assert decode(found["payload"]) == ebpf.program + ebpf.btf
        there.delete([0])
        remove(rows, [0])
        there.ask("compact")
        check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        for _ in range(2):
            assert store.extract_kernel() == kernel
            assert store.extract_kernel_binding() == binding
            assert store.extract_ebpf() == ebpf
            assert store.extract_wasm() == wasm
            assert store.extract_dashboard() == dashboard
            store.compact()
    with original.open(tmp_path / "docs.rvf") as there:
        assert there.ask("extractKernel") is not None
        check_theirs(there, rows)


def test_images_of_its_own_are_read_and_kept(original: Original, tmp_path: Path) -> None:
    """We extract its images; it gives the oldest of several kernels, we the newest."""
    with original.create(tmp_path / "docs.rvf", DIMENSION) as there:
        there.ingest([1], random_vectors(1, 1))
        for image, cmdline in ((IMAGE, "first"), (IMAGE[::-1], "second")):
            there.ask(
                "embedKernel",
                arch=0,
                type=1,
                flags=0b11,
                image=encode(image),
                port=9000,
                cmdline=cmdline,
            )
        there.ask(
            "embedEbpf", type=1, attach=2, dimension=8, program=encode(bytes(16)), btf=encode(b"t")
        )
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        for _ in range(2):
            kernel = store.extract_kernel()
            assert kernel is not None
            assert (kernel.image, kernel.cmdline, kernel.port) == (IMAGE[::-1], "second", 9000)
            assert (kernel.arch, kernel.kernel_type, kernel.flags) == (0, 1, 0b11)
            assert kernel.binding is None
            assert store.extract_ebpf() == Ebpf(bytes(16), 1, 2, 8, b"t")
            store.compact()
    with original.open(tmp_path / "docs.rvf") as there:
        found = there.ask("extractKernel")
        assert decode(found["image"]).startswith(IMAGE)
