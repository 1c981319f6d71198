"""The nearest of many at once, against the distance of two; and requests that are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.faults import MemoryDisk
from holdfast.formats import model_artifact
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import FieldStats, Fingerprint
from holdfast.formats.model_artifact import ModelArtifact, encode_fingerprint
from holdfast.workers import registry
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Done
from holdfast.workers.registry_table import Nearest, Stored
from tests.formats.test_fingerprint import FINGERPRINTS
from tests.workers.registry_model import (
    ask,
    content_of,
    fingerprint,
    finished,
    model,
    opened,
    saving,
    state_of,
    tick,
    write,
)


def _stored(key: int, found: Fingerprint, misfit: str | None = None) -> Stored:
    return Stored(key.to_bytes(32, "big"), b"", 0, found, misfit)


@given(st.lists(FINGERPRINTS, max_size=12), FINGERPRINTS, st.integers(1, 14))
def test_distances_are_those_of_two(all: list[Fingerprint], query: Fingerprint, k: int) -> None:
    """Bit for bit the same as one by one, in order of distance, then of key."""
    nearest = Nearest(tick)
    table = {s.key: s for s in (_stored(n, one) for n, one in enumerate(all))}
    nearest.update(table)
    wanted = [np.float32(one.distance_to(query)) for one in all]
    assert nearest.distances(query).tobytes() == np.array(wanted, np.float32).tobytes()
    order = sorted(range(len(all)), key=lambda n: (wanted[n], n))[:k]
    found = nearest.find(query, k)
    assert [s.key for s, _ in found] == [_stored(n, all[n]).key for n in order]
    assert [d for _, d in found] == [float(wanted[n]) for n in order]


@given(st.lists(st.tuples(FINGERPRINTS, st.booleans()), max_size=8), FINGERPRINTS)
def test_what_is_left_out(all: list[tuple[Fingerprint, bool]], query: Fingerprint) -> None:
    """Only those that fit, and strictly none whose mappings differ."""
    nearest = Nearest(tick)
    stored = [_stored(n, one, None if fits else "why") for n, (one, fits) in enumerate(all)]
    nearest.update({one.key: one for one in stored})
    fitting = nearest.find(query, 99, fitting=True)
    assert {s.key for s, _ in fitting} == {s.key for s in stored if s.misfit is None}
    strict = nearest.find(query, 99, strict=True)
    assert {s.key for s, _ in strict} == {
        s.key
        for s in stored
        if s.fingerprint.schema_hash == query.schema_hash
        or (s.fingerprint.is_plain and query.is_plain)
    }


def test_names_that_went_are_forgotten() -> None:
    """Artifacts that come and go with ever new names do not fill the memory."""
    nearest = Nearest(tick)
    for number in range(0, 40_000, 1000):
        names = [str(name) for name in range(number, number + 1000)]
        nearest.update({bytes(32): _stored(0, fingerprint(*names))})
        assert len(nearest._numbering.names) <= 8000
        assert nearest.find(fingerprint(*names), 1)[0][1] == 0


def test_saves_and_deletions_are_seen_at_once() -> None:
    """The next search sees what was written since the last."""
    actor = opened(MemoryDisk("/data"))
    request = rm.RegistryNearest(encode_fingerprint(model("a").fingerprint), 9)
    for number, name in enumerate("cba"):
        write(actor, saving((name, 1)), Caller(1, number))
        assert len(ask(actor, request, rm.RegistryNeighbours).found) == number + 1
    first = ask(actor, request, rm.RegistryNeighbours).found[0]
    assert first.artifact[:32] == model("a").schema_hash
    write(actor, rm.RegistryDelete(model("a").schema_hash), Caller(1, 9))
    assert len(ask(actor, request, rm.RegistryNeighbours).found) == 2


GOOD = model("a", 1)
BAD: dict[str, rm.RegistryRequest] = {
    "no artifact": rm.RegistrySave([b"text"]),
    "cut": rm.RegistrySave([model_artifact.encode(GOOD)[:-1]]),
    "longer": rm.RegistrySave([model_artifact.encode(GOOD) + b"x"]),
    "second of two": rm.RegistrySave([model_artifact.encode(GOOD), b""]),
    "unfit": rm.RegistrySave(
        [model_artifact.encode(ModelArtifact(GOOD.fingerprint, [], [], 0, 0, 0, trained_on=1))]
    ),
    "fingerprint": rm.RegistryNearest(b"text", 1),
    "k": rm.RegistryNearest(encode_fingerprint(GOOD.fingerprint), 0),
    "startup": rm.RegistryStartup(b""),
    "rate": rm.RegistryStartup(
        encode_fingerprint(Fingerprint(bytes(32), (FieldStats("a", "Name", 7.0),)))
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_change_nothing(name: str) -> None:
    """Each is refused before anything is written, also beside good ones."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    write(actor, saving(("z", 1)), Caller(1, 1))
    before = content_of(disk)
    with pytest.raises(InvalidArgument):
        finished(actor.handle(BAD[name], Caller(1, 2)))
    actor.commit()
    assert content_of(disk) == before


def test_no_artifacts_are_no_write() -> None:
    """To save nothing is done at once."""
    actor = opened(MemoryDisk("/data"))
    assert actor.handle(rm.RegistrySave([]), Caller(1, 1)) == Done()


def test_a_registry_that_grows_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit is refused by itself; what comes with it and fits is written."""
    size = len(saving(("a", 1)).artifacts[0]) + 32
    monkeypatch.setattr(registry, "REGISTRY_BYTES_MAX", 12 + 2 * size)
    actor = opened(MemoryDisk("/data"))
    steps = [actor.handle(saving((name, 1)), Caller(1, ord(name))) for name in "abc"]
    again = actor.handle(saving(("a", 2)), Caller(1, 1))
    assert finished(steps[0]) == Done()
    assert finished(steps[1]) == Done()
    with pytest.raises(LimitExceeded, match="over the limit"):
        finished(steps[2])
    assert finished(again) == Done()
    assert state_of(actor).keys() == {model(name).schema_hash for name in "ab"}


def test_a_registry_of_too_many_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model more than the limit is refused, by name; one in place of another is not."""
    monkeypatch.setattr(registry, "ARTIFACTS_MAX", 2)
    actor = opened(MemoryDisk("/data"))
    write(actor, saving(("a", 1), ("b", 1)), Caller(1, 1))
    with pytest.raises(LimitExceeded, match="3 models, over the limit of 2"):
        write(actor, saving(("c", 1)), Caller(1, 2))
    write(actor, saving(("b", 2)), Caller(1, 3))
    assert state_of(actor).keys() == {model(name).schema_hash for name in "ab"}


def test_an_artifact_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact over the limit is refused with its size."""
    monkeypatch.setattr(registry, "ARTIFACT_BYTES_MAX", 100)
    actor = opened(MemoryDisk("/data"))
    with pytest.raises(LimitExceeded, match="over the limit of 100"):
        actor.handle(saving(("a", 1)), Caller(1, 1))
