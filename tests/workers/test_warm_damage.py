"""Every cut and every flipped bit of a warm store's files: a right answer or a typed error.

Under the profile "long" every bit is flipped; otherwise some, drawn by a seed.
"""

import itertools
import random
from collections.abc import Iterable, Iterator

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats import warm_log, zone_map
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.warm_terms import COMPRESSIONS, Compression
from holdfast.workers import warm_chunks
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted
from holdfast.workers.warm import WarmActor
from tests.workers.interruptions import is_exhaustive
from tests.workers.warm_reads import (
    FILES,
    FLUSHED,
    LOGGED,
    PATH,
    STATES,
    State,
    Write,
    ask,
    build,
    checked,
    flush,
    look_at,
    opened,
    row,
    scanned,
    with_small_maps,
)

pytestmark = pytest.mark.usefixtures("quiet")

SMALL_BLOCK = 1024
CHUNK_FILES = (FILES.chunk(1), FILES.zone(1), FILES.dead(3), FILES.chunk(2), FILES.zone(2))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks have several blocks, and a few of their rows are mapped."""
    with_small_maps(monkeypatch)
    monkeypatch.setattr(zone_map, "BLOCK_BYTES", SMALL_BLOCK)
    monkeypatch.setattr(warm_chunks, "BLOCK_BYTES", SMALL_BLOCK)


@pytest.fixture
def closed() -> MemoryDisk:
    """The store, closed, with records in its log."""
    disk = MemoryDisk("/data")
    build(disk).close()
    return disk


@pytest.fixture
def flushed() -> MemoryDisk:
    """The store, closed, with nothing in its log."""
    disk = MemoryDisk("/data")
    build(disk, logged=()).close()
    return disk


def _content(disk: MemoryDisk, path: str) -> bytes:
    content = disk.content(path)
    assert content is not None
    return content


def _with(disk: MemoryDisk, path: str, content: bytes) -> MemoryDisk:
    left = disk.crash()
    left.place(path, content)
    return left


def _without(disk: MemoryDisk, *paths: str) -> MemoryDisk:
    left = disk.crash()
    for path in paths:
        left.remove(path)
    return left


def _flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _bits(content: bytes, chance: float) -> Iterable[int]:
    """Which bits to flip: all of them if there is time, else one in some of the bytes."""
    if is_exhaustive():
        return range(8 * len(content))
    dice = random.Random(len(content))
    return [8 * at + dice.randrange(8) for at in range(len(content)) if dice.random() < chance]


def _files_of(disk: MemoryDisk) -> dict[str, bytes | None]:
    """Every file of the store but the one that says whose it is."""
    return {name: disk.content(f"{PATH}/{name}") for name, _ in disk.list(PATH) if name != "OWNER"}


def _opened(disk: MemoryDisk) -> WarmActor | StoreCorrupt:
    """The store, or why it is refused; then every file of it is as it was."""
    before = _files_of(disk)
    try:
        return opened(disk)
    except StoreCorrupt as error:
        found = checked(error)
    assert _files_of(disk) == before
    return found


def _refusal(disk: MemoryDisk) -> StoreCorrupt:
    found = _opened(disk)
    assert isinstance(found, StoreCorrupt)
    return found


# --- the log ------------------------------------------------------------------------------------


def _bounds(log: bytes) -> list[int]:
    """Where the records of a log begin, and where the last one ends."""
    header = warm_log.decode_header(log)
    assert not isinstance(header, str)
    records = warm_log.scan(memoryview(log), header).records
    assert len(records) == len(LOGGED)
    return [warm_log.HEADER_BYTES, *(record.end for record in records)]


def _check_torn(disk: MemoryDisk, log: bytes, state: State, end: int) -> None:
    """The store opens with this state, its log cut at ``end``, what was cut kept aside."""
    actor = _opened(disk)
    assert isinstance(actor, WarmActor)
    actor.check_invariants()
    assert scanned(disk, actor) == state
    assert _content(disk, FILES.log) == log[:end]
    cut = log[end:]
    kept = disk.content(FILES.log + ".cut1") or b""
    assert kept == (cut if cut.strip(b"\0") else b"")
    assert ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws == []
    actor.close()


def test_every_flip_of_the_log(closed: MemoryDisk) -> None:
    """A flip in the last record is a torn write, and any before it corruption."""
    log = _content(closed, FILES.log)
    bounds = _bounds(log)
    for bit in _bits(log, 1):
        damaged = _flipped(log, bit)
        left = _with(closed, FILES.log, damaged)
        if bit // 8 >= bounds[-2]:
            _check_torn(left, damaged, STATES[-2], bounds[-2])
            continue
        error = _refusal(left)
        assert error.path == FILES.log
        assert error.offset == max([0, *(bound for bound in bounds if bound <= bit // 8)])


def _fills(seed: int) -> Iterator[bytes]:
    yield b""
    yield bytes(600)
    yield random.Random(seed).randbytes(90)


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two logs have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_every_cut_of_the_log(closed: MemoryDisk) -> None:
    """A log cut anywhere, with anything behind the cut, holds the records before it."""
    log = _content(closed, FILES.log)
    bounds = _bounds(log)
    for cut in range(len(log) + 1):
        for fill in _fills(cut):
            damaged = log[:cut] + fill
            same = _shared(damaged, log)  # a fill may begin like the log
            left = _with(closed, FILES.log, damaged)
            if same < bounds[0]:
                assert _refusal(left).path == FILES.log
                continue
            whole = max(n for n, bound in enumerate(bounds) if bound <= same)
            _check_torn(left, damaged, STATES[whole], bounds[whole])


def test_cut_below_what_was_synced() -> None:
    """After the death of a process a log that is shorter than what was synced is refused."""
    disk = MemoryDisk("/data")
    build(disk)
    log = _content(disk, FILES.log)
    for size in range(len(log)):
        error = _refusal(_with(disk, FILES.log, log[:size]))
        assert error.path == FILES.log
    left = _with(disk, FILES.log, log)
    actor = opened(left)
    assert look_at(left, actor, STATES[-1]) == {}


@pytest.mark.parametrize(
    ("order", "place"),
    [((1, 0, 2), 0), ((0, 2, 1), 1), ((1, 2), 0), ((0, 2), 1), ((0, 0, 1, 2), 1), ((2,), 0)],
)
def test_records_out_of_order(closed: MemoryDisk, order: tuple[int, ...], place: int) -> None:
    """Records that were exchanged, repeated or taken out of the middle are corruption."""
    log = _content(closed, FILES.log)
    bounds = _bounds(log)
    records = [log[start:end] for start, end in itertools.pairwise(bounds)]
    damaged = log[: bounds[0]] + b"".join(records[n] for n in order)
    error = _refusal(_with(closed, FILES.log, damaged))
    assert (error.path, error.offset) == (FILES.log, bounds[place])
    assert "was due" in (error.reason or "")


def test_repeated_last_record(closed: MemoryDisk) -> None:
    """A record that comes again at the end is cut, and changes nothing."""
    log = _content(closed, FILES.log)
    bounds = _bounds(log)
    damaged = log + log[bounds[-2] :]
    _check_torn(_with(closed, FILES.log, damaged), damaged, STATES[-1], len(log))


def test_broken_metadata_in_the_log(closed: MemoryDisk) -> None:
    """A record whose checksum holds and whose metadata are none is refused with its place."""
    log = _content(closed, FILES.log)
    header = warm_log.decode_header(log)
    assert not isinstance(header, str)
    sequence = header.first_sequence + len(LOGGED)
    pieces = warm_log.encode_write(sequence, 0, bytes(8), bytes(8), bytes(8), b"no metadata")
    error = _refusal(_with(closed, FILES.log, log + b"".join(pieces)))
    assert (error.path, error.offset) == (FILES.log, len(log) + 48 + 24)


# --- the manifest -------------------------------------------------------------------------------


def test_every_flip_and_cut_of_the_manifest(closed: MemoryDisk) -> None:
    """A manifest that is not whole is refused, and nothing is touched."""
    manifest = _content(closed, FILES.manifest)
    damaged = [_flipped(manifest, bit) for bit in range(8 * len(manifest))]
    damaged += [manifest[:cut] + fill for cut in range(len(manifest)) for fill in _fills(cut)]
    damaged += [manifest + b"\n", manifest + manifest]
    for content in damaged:
        error = _refusal(_with(closed, FILES.manifest, content))
        assert error.path == FILES.manifest
        assert error.offset is not None
        assert error.offset <= len(content)


# --- chunks, zone maps, dead rows ---------------------------------------------------------------


def _check_damage(disk: MemoryDisk, path: str, state: State) -> dict[str, StoreCorrupt]:
    """Open and read in every way: right, or an error of this file, which verifying finds, too."""
    actor = opened(disk)
    errors = look_at(disk, actor, state)
    assert {error.path for error in errors.values()} <= {path}
    assert not errors.keys() & {"count"}
    flaws = ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws
    assert [flaw.path for flaw in flaws] == [path]
    actor.abandon()
    return errors


@pytest.mark.parametrize("path", CHUNK_FILES)
def test_every_flip_of_a_chunk(flushed: MemoryDisk, path: str) -> None:
    """A flip is noticed by whoever needs the bytes, and shows no wrong answer to anybody."""
    content = _content(flushed, path)
    for bit in _bits(content, 0.2):
        left = _with(flushed, path, _flipped(content, bit))
        errors = _check_damage(left, path, FLUSHED)
        assert "scan mapped" in errors
        assert "scan sent" in errors
        if path.endswith(".arrow"):
            assert all(error.offset == bit // 8 // SMALL_BLOCK * SMALL_BLOCK
                       for error in errors.values())  # fmt: skip
            other = "5" if path == FILES.chunk(1) else "2"
            assert not errors.keys() & {f"get 0/{other}", f"range 0/{other}", f"latest 0/{other}"}
        assert _content(left, path) == _flipped(content, bit)


def test_flips_among_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chunk of many blocks, each is checked before its keys, vectors or metadata are read."""
    block = 2 * SMALL_BLOCK  # the first one has all that Arrow says of its columns
    monkeypatch.setattr(zone_map, "BLOCK_BYTES", block)
    monkeypatch.setattr(warm_chunks, "BLOCK_BYTES", block)
    disk = MemoryDisk("/data")
    actor = opened(disk)
    Write(0, {(1, time): row(time, text=f"{time:040d}") for time in range(200)}).send(
        actor, Caller(1, 1)
    )
    flush(actor)
    actor.close()
    path = FILES.chunk(1)
    content = _content(disk, path)
    assert len(content) > 8 * block
    for bit in range(0, 8 * len(content), 8 * 97 + 1):
        left = _with(disk, path, _flipped(content, bit))
        for mapped in (True, False):
            with pytest.raises(StoreCorrupt) as caught:
                scanned(left, opened(left.crash()), mapped=mapped)
            assert caught.value.path == path
            # None: the ends of offsets, which Arrow itself compares with what they lead to
            assert caught.value.offset in (None, bit // 8 // block * block)


@pytest.mark.parametrize("compression", [c for c in COMPRESSIONS if c != "none"])
def test_flips_of_a_compressed_chunk(compression: Compression) -> None:
    """What is decompressed was checked before, all of it."""
    disk = MemoryDisk("/data")
    build(disk, logged=(), compression=compression).close()
    path = FILES.chunk(1)
    content = _content(disk, path)
    for bit in _bits(content, 0.05):
        errors = _check_damage(_with(disk, path, _flipped(content, bit)), path, FLUSHED)
        assert "scan sent" in errors


@pytest.mark.parametrize("path", CHUNK_FILES)
def test_every_cut_of_a_chunk(flushed: MemoryDisk, path: str) -> None:
    """A file that is shorter or longer than it was is refused by its length, when it is needed."""
    content = _content(flushed, path)
    step = 1 if is_exhaustive() else 1 + len(content) // 100
    for size in [*range(0, len(content), step), len(content) - 1, len(content) + 1, 70_000]:
        damaged = content[:size] + bytes(max(0, size - len(content)))
        errors = _check_damage(_with(flushed, path, damaged), path, FLUSHED)
        assert "scan mapped" in errors
        for error in errors.values():
            assert error.offset == min(size, len(content))
            assert f"{size} bytes instead of {len(content)}" in str(error)


@pytest.mark.parametrize("path", CHUNK_FILES)
def test_damage_that_replaying_the_log_meets(closed: MemoryDisk, path: str) -> None:
    """A log is replayed over undamaged rows, or the store is refused and left as it is."""
    content = _content(closed, path)
    refused = 0
    for bit in _bits(content, 0.1):
        left = _with(closed, path, _flipped(content, bit))
        actor = _opened(left)
        if isinstance(actor, StoreCorrupt):
            assert actor.path == path
            refused += 1
            continue
        errors = look_at(left, actor, STATES[-1])
        assert {error.path for error in errors.values()} == {path}
        actor.abandon()
    assert refused


@pytest.mark.parametrize("path", CHUNK_FILES)
def test_writing_over_damage(flushed: MemoryDisk, path: str) -> None:
    """A write that needs what is damaged changes nothing; neither does compacting, nor its end."""
    content = _content(flushed, path)
    left = _with(flushed, path, _flipped(content, 8 * (len(content) // 2)))
    actor = opened(left)
    errors = look_at(left, actor, FLUSHED)
    before = _files_of(left)
    change = Write(0, {(entity, time): row(0) for entity in range(1, 6) for time in range(20)})
    for _ in range(2):
        with pytest.raises(StoreCorrupt) as caught:
            change.send(actor, Caller(5, 1))
        assert caught.value.path == path
        with pytest.raises(StoreCorrupt):
            ask(actor, wm.WarmCompact(), Compacted)
    assert look_at(left, actor, FLUSHED).keys() == errors.keys()
    new = _files_of(left)
    assert {name: new[name] for name in before if name != "LOG.ledger"} == {
        name: content for name, content in before.items() if name != "LOG.ledger"
    }
    actor.close()
    again = opened(left)
    assert look_at(left, again, FLUSHED).keys() == errors.keys()


def test_upkeep_meets_damage(flushed: MemoryDisk) -> None:
    """Merging in the background that meets damage is put off, and everything else goes on."""
    left = _with(flushed, FILES.chunk(1), bytes(len(_content(flushed, FILES.chunk(1)))))
    actor = opened(left)
    for number in range(3):
        Write(9, {(1, number): row(number)}).send(actor, Caller(5, number))
        flush(actor)
    while actor.step(idle=True):
        pass
    assert len(ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws) == 1
    expected = FLUSHED | {(9, 1, number): row(number) for number in range(3)}
    errors = look_at(left, actor, expected)
    assert {error.path for error in errors.values()} == {FILES.chunk(1)}
    assert not errors.keys() & {"get 9/1", "range 9/1", "get 0/5"}


# --- files exchanged, missing, left over --------------------------------------------------------


@pytest.mark.parametrize("path", [FILES.log, *CHUNK_FILES])
def test_missing_files(closed: MemoryDisk, path: str) -> None:
    """A file that is listed and gone is named, and nothing is touched."""
    error = _refusal(_without(closed, path))
    assert error.path == path
    assert "missing" in (error.reason or "")


def test_missing_manifest(closed: MemoryDisk) -> None:
    """Without its manifest a store is not taken for an empty one, unless nothing was in it."""
    error = _refusal(_without(closed, FILES.manifest))
    assert error.path == FILES.manifest
    only_log = _without(closed, FILES.manifest, *CHUNK_FILES)
    assert _refusal(only_log).path == FILES.manifest
    log = _content(closed, FILES.log)
    damaged = _with(only_log, FILES.log, _flipped(log, 8 * 20))
    assert _refusal(damaged).path == FILES.manifest
    empty = _with(only_log, FILES.log, log[: warm_log.HEADER_BYTES])
    assert scanned(empty, opened(empty)) == {}


def _other() -> MemoryDisk:
    """Another store in which the same was done."""
    disk = MemoryDisk("/data")
    build(disk).close()
    return disk


@pytest.mark.parametrize("path", [FILES.zone(1), FILES.zone(2), FILES.dead(3)])
def test_files_of_another_store(flushed: MemoryDisk, path: str) -> None:
    """A file of the same name and length from another store is not believed."""
    foreign = _content(_other(), path)
    assert len(foreign) == len(_content(flushed, path))
    errors = _check_damage(_with(flushed, path, foreign), path, FLUSHED)
    assert "scan sent" in errors


def test_log_of_another_store(closed: MemoryDisk) -> None:
    """A log of another store is named as such."""
    error = _refusal(_with(closed, FILES.log, _content(_other(), FILES.log)))
    assert (error.path, error.reason) == (FILES.log, "it is the log of another store")


def test_manifest_of_another_store(closed: MemoryDisk) -> None:
    """Under the manifest of another store, none of the files is believed."""
    assert _refusal(_with(closed, FILES.manifest, _content(_other(), FILES.manifest)))


@pytest.mark.parametrize("name", ["chunk", "zone"])
def test_files_swapped(flushed: MemoryDisk, name: str) -> None:
    """Two chunks, or two zone maps, that changed names are not believed."""
    paths = [getattr(FILES, name)(number) for number in (1, 2)]
    one, two = (_content(flushed, path) for path in paths)
    left = _with(_with(flushed, paths[0], two), paths[1], one)
    actor = opened(left)
    errors = look_at(left, actor, FLUSHED)
    assert errors.keys() >= {"scan mapped", "scan sent", "get 0/1", "get 0/5"}
    flaws = ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws
    assert {flaw.path for flaw in flaws} == set(paths)


def test_whole_chunks_swapped(flushed: MemoryDisk) -> None:
    """A chunk with its zone map under the names of another is not believed either."""
    left = flushed
    for path in (FILES.chunk, FILES.zone):
        one, two = _content(flushed, path(1)), _content(flushed, path(2))
        left = _with(_with(left, path(1), two), path(2), one)
    errors = look_at(left, opened(left), FLUSHED)
    assert errors.keys() >= {"scan mapped", "scan sent", "series", "get 0/1", "get 0/5"}


def _stale_manifests() -> tuple[MemoryDisk, list[bytes]]:
    """A store that was flushed and compacted, and all its manifests but the last."""
    disk = MemoryDisk("/data")
    actor = build(disk)
    stale = [_content(disk, FILES.manifest)]
    flush(actor)
    stale.append(_content(disk, FILES.manifest))
    ask(actor, wm.WarmCompact(), Compacted)
    Write(0, {(7, 7): row(7)}).send(actor, Caller(5, 1))
    actor.close()
    return disk, stale


def test_stale_manifests() -> None:
    """A manifest from before is not taken for the store's: chunks or records of it are gone."""
    disk, stale = _stale_manifests()
    for manifest in stale:
        error = _refusal(_with(disk, FILES.manifest, manifest))
        assert "missing" in (error.reason or "") or "it begins with record" in (error.reason or "")
    left = disk.crash()
    assert scanned(left, opened(left)) == STATES[-1] | {(0, 7, 7): row(7)}


def test_stale_log(closed: MemoryDisk) -> None:
    """A log from before a flush ends before what was synced since, and is refused."""
    disk, _ = _stale_manifests()
    for cut in range(len(LOGGED)):
        old = MemoryDisk("/data")
        build(old, logged=LOGGED[:cut]).close()
        stale = _content(old, FILES.log)
        header = warm_log.decode_header(_content(disk, FILES.log))
        assert not isinstance(header, str)
        first = warm_log.decode_header(stale)
        assert not isinstance(first, str)
        again = warm_log.encode_header(2, header.store_id, first.first_sequence)
        left = _with(disk, FILES.log, again + stale[warm_log.HEADER_BYTES :])
        error = _refusal(left)
        assert error.path == FILES.log
        assert "was synced and is not there" in (error.reason or "")


def test_leftovers(closed: MemoryDisk) -> None:
    """What a crash leaves is removed and read by nobody; what has another name stays."""
    names = [
        "0000000009.arrow", "0000000009.zone", "0000000001.dead", "0000000003.arrow",
        "0000000001.arrow.tmp", "MANIFEST.tmp", "LOG.tmp",
    ]  # fmt: skip
    kept = ["notes.txt", "1.arrow", "000000000x.zone", "0000000009.parquet"]
    left = closed.crash()
    for name in (*names, *kept):
        left.place(f"{PATH}/{name}", b"whatever")
    actor = opened(left)
    assert look_at(left, actor, STATES[-1]) == {}
    there = {name for name, _ in left.list(PATH)}
    assert not there & set(names)
    assert there >= set(kept)
    actor.close()


def test_damage_is_never_an_internal_error(closed: MemoryDisk) -> None:
    """Any file replaced by zeros, nothing, text or another file of the store is a typed error."""
    paths = [FILES.manifest, FILES.log, *CHUNK_FILES]
    for path in paths:
        contents = [b"", bytes(100), b"text\n" * 500, *(_content(closed, other) for other in paths)]
        for content in contents:
            if content == _content(closed, path):
                continue
            left = _with(closed, path, content)
            actor = _opened(left)
            if isinstance(actor, StoreCorrupt):
                continue
            assert {e.path for e in look_at(left, actor, STATES[-1]).values()} <= {path}
