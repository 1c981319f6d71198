"""Registries of the original's making: what is answered about them, and what becomes of them."""

from typing import Any

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats import model_artifact
from holdfast.formats.errors import InvalidFormat, StoreCorrupt
from holdfast.formats.model_artifact import encode_fingerprint
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.registry import RegistryActor
from tests.formats.zsm_samples import (
    check_checks,
    content,
    expected,
    golden_fingerprint,
    read_file,
)
from tests.workers.registry_model import PATH, ask, content_of, deleting, opened, saving, write

FILES = expected()["files"]
MODES = [(file, query) for file, modes in expected()["startup_modes"].items() for query in modes]


def _disk(name: str) -> MemoryDisk:
    disk = MemoryDisk("/data")
    disk.place(PATH, content(name))
    return disk


def _query(name: str) -> bytes:
    return encode_fingerprint(golden_fingerprint(expected()["fingerprints"][name]))


def _nearest(actor: RegistryActor, query: str) -> rm.Neighbour | None:
    found = ask(actor, rm.RegistryNearest(_query(query), 1), rm.RegistryNeighbours).found
    return found[0] if found else None


@pytest.mark.parametrize(("file", "query"), MODES)
def test_startup_modes_of_the_original(file: str, query: str) -> None:
    """Load, start or neither: the model and the distance are the original's."""
    case: dict[str, Any] = expected()["startup_modes"][file][query]
    actor = opened(_disk(file))
    start = ask(actor, rm.RegistryStartup(_query(query)), rm.RegistryStart)
    if case["mode"] == "ColdStart":
        assert start == rm.RegistryStart(None, None)
        nearest = _nearest(actor, query)
        assert (nearest is None) == (case["nearest"] is None)
        if nearest is not None:
            assert abs(nearest.distance - case["nearest"]["distance"]) <= 1e-6
        return
    assert start.artifact is not None
    artifact = model_artifact.decode(start.artifact)
    assert artifact.schema_hash.hex() == case["hash"]
    assert artifact.tag == case["tag"]
    if case["mode"] == "WarmLoad":
        assert start.distance is None
    else:
        assert start.distance is not None
        assert abs(start.distance - case["distance"]) <= 1e-6
        nearest = _nearest(actor, query)
        assert nearest == rm.Neighbour(start.artifact, start.distance)


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]["ok"]])
def test_files_are_served_and_written_anew(name: str) -> None:
    """What the original wrote is served as it is; a save keeps it and adds checksums."""
    disk = _disk(name)
    actor = opened(disk)
    assert content_of(disk) == content(name)
    listed = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
    assert sorted(a.hex() for a in listed) == sorted(
        a["artifact_bytes_hex"] for a in FILES[name]["artifacts"]
    )
    before = {} if "count-0" in name else read_file(content(name))[0]
    write(actor, saving(("new", 1)), Caller(1, 1))
    after, end = read_file(content_of(disk))
    check_checks(content_of(disk), end)
    assert after.pop(saving(("new", 1)).artifacts[0][:32].hex())["tag"] == "new 1"
    assert after == before
    assert disk.content(PATH + ".previous") == content(name)


@pytest.mark.parametrize("name", [name for name in FILES if not FILES[name]["ok"]])
def test_files_that_are_refused(name: str) -> None:
    """What the original refuses is refused, with place and reason, and left as it is."""
    disk = _disk(name)
    names = disk.list("/data")
    with pytest.raises(StoreCorrupt) as caught:
        opened(disk)
    foreign = "invalid .zsm magic" in FILES[name]["message"]
    assert isinstance(caught.value, InvalidFormat) == foreign
    assert caught.value.path == PATH
    assert caught.value.offset is not None
    assert caught.value.reason
    assert disk.list("/data") == names
    assert content_of(disk) == content(name)


def test_a_key_that_differs_from_the_hash() -> None:
    """An exact look-up uses the key, a distance the model's own hash, as in the original."""
    actor = opened(_disk("odd-key-differs-from-hash.zsm"))
    key = content("odd-key-differs-from-hash.zsm")[12:44]
    own = content("odd-key-differs-from-hash.zsm")[44:76]
    assert key != own
    assert ask(actor, rm.RegistryGet(key), rm.RegistryFound).artifact is not None
    assert ask(actor, rm.RegistryGet(own), rm.RegistryFound).artifact is None
    nearest = _nearest(actor, "brp-40")
    assert nearest is not None
    assert nearest.distance == 0
    assert write(actor, rm.RegistryDelete(key), Caller(1, 1)) == rm.RegistryDeleted(deleted=True)


def test_of_a_repeated_key_the_last_counts() -> None:
    """One artifact is served of two under a key, and it is the later one."""
    actor = opened(_disk("odd-duplicate-key.zsm"))
    (artifact,) = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
    assert model_artifact.decode(artifact).tag == "second wins"


def test_ties_go_to_the_smaller_hash() -> None:
    """Of two models at one distance the same is found at every opening: the smaller hash."""
    hashes = sorted(a["artifact_bytes_hex"][:64] for a in FILES["reg-tie.zsm"]["artifacts"])
    for _ in range(3):
        actor = opened(_disk("reg-tie.zsm"))
        found = ask(actor, rm.RegistryNearest(_query("tie-query"), 2), rm.RegistryNeighbours).found
        assert found[0].distance == found[1].distance
        assert [one.artifact[:32].hex() for one in found] == hashes


def test_a_model_that_does_not_fit_its_fields_is_not_started_with() -> None:
    """Parameters without a row for each field are given out, but not to start with."""
    actor = opened(_disk("reg-special.zsm"))
    (artifact,) = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
    special = model_artifact.decode(artifact)
    assert special.misfit == "m has 0 rows, and the schema has 7 fields"
    assert ask(actor, rm.RegistryGet(artifact[:32]), rm.RegistryFound).artifact == artifact
    start = ask(actor, rm.RegistryStartup(_query("sis-33")), rm.RegistryStart)
    assert special.schema_hash.hex() == expected()["fingerprints"]["sis-33"]["schema_hash"]
    assert start == rm.RegistryStart(None, None)


def test_strict_keeps_mappings_apart() -> None:
    """With mappings only the very same schema is found; the original ignores them."""
    actor = opened(_disk("reg-5.zsm"))
    loose = ask(actor, rm.RegistryStartup(_query("brp-40-mapped")), rm.RegistryStart)
    assert loose.distance == 0
    strict = ask(actor, rm.RegistryStartup(_query("brp-40-mapped"), True), rm.RegistryStart)
    assert strict == rm.RegistryStart(None, None)
    found = ask(actor, rm.RegistryNearest(_query("brp-40-mapped"), 9, True), rm.RegistryNeighbours)
    assert found.found == []
    plain = ask(actor, rm.RegistryStartup(_query("brp-ext-55"), True), rm.RegistryStart)
    assert plain == ask(actor, rm.RegistryStartup(_query("brp-ext-55")), rm.RegistryStart)


def test_strict_keeps_mapped_models_apart() -> None:
    """A model trained with mappings is found strictly for its own hash, and for no other."""
    mapped = golden_fingerprint(expected()["fingerprints"]["brp-40-mapped"])
    plain = golden_fingerprint(expected()["fingerprints"]["brp-40"])
    rows = [[0.5, 0.5]] * len(mapped.field_stats)
    artifact = model_artifact.ModelArtifact(mapped, rows, rows, 0.0, 0.9, 0.1, trained_on=1)
    actor = opened(MemoryDisk("/data"))
    write(actor, rm.RegistrySave([model_artifact.encode(artifact)]), Caller(1, 1))
    for fingerprint, strict, count in ((plain, False, 1), (plain, True, 0), (mapped, True, 1)):
        request = rm.RegistryNearest(encode_fingerprint(fingerprint), 5, strict)
        assert len(ask(actor, request, rm.RegistryNeighbours).found) == count


def test_the_bytes_do_not_depend_on_the_way_there() -> None:
    """The same models are the same file, whatever was saved and deleted before."""
    files = set()
    for order in (("a", "b", "c"), ("c", "b", "a"), ("b", "c", "x", "a")):
        disk = MemoryDisk("/data")
        actor = opened(disk)
        for number, name in enumerate(order):
            write(actor, saving((name, 7)), Caller(1, number))
        write(actor, deleting("x"), Caller(1, 99))
        actor.close()
        files.add(content_of(disk))
    assert len(files) == 1
