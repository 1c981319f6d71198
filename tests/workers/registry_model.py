"""What a registry must hold, as a plain dictionary, and how a test talks to an actor."""

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.bench.faults import MemoryDisk
from holdfast.formats import model_artifact
from holdfast.formats.errors import HoldfastError
from holdfast.formats.fingerprint import FieldStats, Fingerprint, schema_hash
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller, Opener, Steps
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Done, Reply, Request, StoreSpec
from holdfast.workers.registry import RegistryActor, open_registry

R = TypeVar("R")

PATH = "/data/m.zsm"
READER = Caller(99, 0)
POLICIES: tuple[Durability, ...] = ("always", "interval", "never")

State = dict[bytes, bytes]
"""Key to artifact, both as bytes."""
OPENER: Opener = open_registry
"""For the type checker: the actor keeps the serve loop's contract."""
Write = rm.RegistrySave | rm.RegistryDelete


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def opened(
    disk: Disk, path: str = PATH, durability: Durability = "always", *, create: bool = True
) -> RegistryActor:
    """The registry at ``path``, recovered and consistent; an interval is never over in a test."""
    spec = StoreSpec("m", "registry", path, durability=durability, interval_s=3600.0, create=create)
    return open_registry(disk, spec, tick)


def fingerprint(*names: str, records: int = 0, seed: int = 0) -> Fingerprint:
    """The fingerprint of a schema of text fields; with records, some statistics."""
    stats = [
        FieldStats(name, "Name", number / 64, 3 * number + seed, (f"{name}{seed}",))
        if records
        else FieldStats(name, "Name")
        for number, name in enumerate(names)
    ]
    return Fingerprint(
        schema_hash([(name, "Name") for name in names]), tuple(stats), records, 1_750_000_000
    )


@functools.cache
def model(name: str, version: int = 0) -> ModelArtifact:
    """A model for a schema called so; another version is another training."""
    row = [0.1, 0.2, 0.3, 0.4]
    return ModelArtifact(
        fingerprint(name, "common", records=40, seed=version),
        [row, row],
        [row[::-1], row],
        -2.5,
        0.9,
        0.1,
        f"{name} {version}" if version else None,
        trained_on=1_750_000_100 + version,
        em_iterations=version,
    )


def key_of(name: str) -> bytes:
    """The key of the models called so."""
    return model(name).schema_hash


def saving(*models: tuple[str, int]) -> rm.RegistrySave:
    """A request to save these."""
    return rm.RegistrySave([model_artifact.encode(model(*one)) for one in models])


def deleting(name: str) -> rm.RegistryDelete:
    """A request to delete the model called so."""
    return rm.RegistryDelete(key_of(name))


def after(state: State, request: Write) -> State:
    """The state once a request took effect."""
    if isinstance(request, rm.RegistryDelete):
        return {key: value for key, value in state.items() if key != request.key}
    return state | {data[:32]: data for data in request.artifacts}


def finished(outcome: Reply | Steps) -> Reply:
    """The reply, long work done to its end."""
    if isinstance(outcome, Reply):
        return outcome
    while True:
        try:
            next(outcome)
        except StopIteration as end:
            reply: Reply = end.value
            return reply


def ask(actor: RegistryActor, request: Request, kind: type[R], caller: Caller = READER) -> R:
    """The reply to a request, of the kind expected."""
    reply = finished(actor.handle(request, caller))
    assert isinstance(reply, kind), reply
    return reply


def write(actor: RegistryActor, request: Write, caller: Caller) -> Reply:
    """The reply to a write, committed."""
    reply = finished(actor.handle(request, caller))
    actor.commit()
    return reply


def state_of(actor: RegistryActor) -> State:
    """All that the actor answers with, each artifact asked for in two ways."""
    artifacts = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
    keys = [artifact[:32] for artifact in artifacts]
    assert keys == sorted(set(keys))
    for key, artifact in zip(keys, artifacts, strict=True):
        assert ask(actor, rm.RegistryGet(key), rm.RegistryFound).artifact == artifact
    return dict(zip(keys, artifacts, strict=True))


def state_in(content: bytes) -> State:
    """What a file says, read by other means than the registry's."""
    assert content[:4] == b"ZSM\x01"
    (count,) = struct.unpack_from("<Q", content, 4)
    at, state = 12, {}
    for _ in range(count):
        key, start = content[at : at + 32], at + 32
        at = _end_of_artifact(content, start)
        assert key not in state
        state[key] = content[start:at]
    assert list(state) == sorted(state)
    assert content[at : at + 8] == b"HFZCHK\x00\x01"
    return state


def _end_of_artifact(data: bytes, at: int) -> int:
    def number() -> int:
        nonlocal at
        at += 8
        return int.from_bytes(data[at - 8 : at], "little")

    at += 32
    for _ in range(number()):
        size = number()
        at += size + 16
        for _ in range(number()):
            size = number()
            at += size
    at += 16
    for _ in range(2):
        for _ in range(number()):
            size = 4 * number()
            at += size
    at += 13
    if data[at - 1]:
        size = number()
        at += size
    return at + 16


def content_of(disk: MemoryDisk) -> bytes:
    """The file's bytes."""
    content = disk.content(PATH)
    assert content is not None
    return content


def _refusable(action: Callable[[], R]) -> R | HoldfastError:
    try:
        return action()
    except HoldfastError as error:
        return error


@dataclass
class History:
    """What was sent and answered: the states gone through, and what is still unanswered."""

    durability: Durability = "always"
    states: list[State] = field(default_factory=lambda: [{}])
    durable: int = 0
    """Index of the last state that a power loss must not undo."""
    pending: list[tuple[Caller, Write]] = field(default_factory=list)
    last: list[tuple[Caller, Write]] = field(default_factory=list)
    """The requests answered last, unless the registry was closed since: answers may be lost."""
    _requests: int = 0

    @property
    def state(self) -> State:
        """Everything answered took effect, and nothing else."""
        return self.states[-1]

    def send(self, actor: RegistryActor, *requests: Write) -> None:
        """Have the actor handle requests in one turn and answer them, as the serve loop does."""
        for request in requests:
            self._requests += 1
            self.pending.append((Caller(7, self._requests), request))
        outcomes = [
            _refusable(functools.partial(actor.handle, request, caller))
            for caller, request in self.pending
        ]
        actor.commit()
        replies = [
            one if isinstance(one, HoldfastError) else _refusable(functools.partial(finished, one))
            for one in outcomes
        ]
        actor.commit()
        errors = [reply for reply in replies if isinstance(reply, HoldfastError)]
        done = [reply for reply in replies if not isinstance(reply, HoldfastError)]
        self.pending = [
            sent
            for sent, reply in zip(self.pending, replies, strict=True)
            if not isinstance(reply, HoldfastError)
        ]
        self.check(done)
        self.answer()
        if errors:
            raise errors[0]

    def check(self, replies: list[Reply]) -> None:
        """Each reply is the one due."""
        state = self.state
        for (_, request), reply in zip(self.pending, replies, strict=True):
            if isinstance(request, rm.RegistryDelete):
                assert reply == rm.RegistryDeleted(request.key in state)
            else:
                assert reply == Done()
            state = after(state, request)

    def answer(self) -> None:
        """Every request sent took effect, for all that its caller knows."""
        self.states.append(self.complete())
        self.last, self.pending = self.pending, []
        if self.durability == "always":
            self.synced()

    def complete(self) -> State:
        """The state with everything pending."""
        return functools.reduce(lambda state, sent: after(state, sent[1]), self.pending, self.state)

    def synced(self) -> None:
        """What was answered is on stable storage, whatever the policy."""
        self.durable = len(self.states) - 1

    def after_death(self) -> list[State]:
        """What may be there after the death of the process: all that is unanswered, or nothing."""
        return [self.state, self.complete()]

    def after_power_loss(self) -> list[State]:
        """What may be there after a power loss: any generation since the last sync."""
        return [*self.states[self.durable :], self.complete()]
