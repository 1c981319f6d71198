"""The registry's handles, blocking and asyncio."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from holdfast.call import Call, awaitable, operation
from holdfast.formats import model_artifact
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import Fingerprint, check_fingerprint
from holdfast.formats.limits import ARTIFACT_BYTES_MAX, BATCH_BYTES_MAX, HASH_BYTES
from holdfast.formats.model_artifact import ModelArtifact, encode_fingerprint
from holdfast.handles.base import AsyncHandle, Handle, Sized, expecting
from holdfast.handles.checks import check_count, check_flag
from holdfast.handles.fingerprints import SchemaFingerprint
from holdfast.workers import messages
from holdfast.workers import registry_messages as rm


class Neighbour(NamedTuple):
    """A model, and how far the schema it was trained on is: 0, the same, to 1."""

    artifact: ModelArtifact
    distance: float


@dataclass(frozen=True)
class WarmLoad:
    """A model for this very schema: load it, there is nothing to train."""

    artifact: ModelArtifact


@dataclass(frozen=True)
class WarmStart:
    """A model for a similar schema, at a distance of at most 0.25: start training from it."""

    artifact: ModelArtifact
    distance: float


@dataclass(frozen=True)
class ColdStart:
    """No model that is near enough: start from nothing."""


StartupMode: TypeAlias = WarmLoad | WarmStart | ColdStart


def _artifact(data: bytes) -> ModelArtifact:
    return model_artifact.decode(data, SchemaFingerprint)


def _nearest(reply: rm.RegistryNeighbours) -> list[Neighbour]:
    return [Neighbour(_artifact(one.artifact), one.distance) for one in reply.found]


def _startup(reply: rm.RegistryStart) -> StartupMode:
    if reply.artifact is None:
        return ColdStart()
    artifact = _artifact(reply.artifact)
    return WarmLoad(artifact) if reply.distance is None else WarmStart(artifact, reply.distance)


_done = expecting(messages.Done, lambda _: None)
_found = expecting(
    rm.RegistryFound, lambda reply: None if reply.artifact is None else _artifact(reply.artifact)
)
_neighbours = expecting(rm.RegistryNeighbours, _nearest)
_neighbour = expecting(rm.RegistryNeighbours, lambda reply: next(iter(_nearest(reply)), None))
_mode = expecting(rm.RegistryStart, _startup)
_listed = expecting(rm.RegistryArtifacts, lambda reply: [_artifact(a) for a in reply.artifacts])
_deleted = expecting(rm.RegistryDeleted, lambda reply: reply.deleted)
_status = expecting(rm.RegistryStatus, lambda reply: reply)
_count = expecting(rm.RegistryStatus, lambda reply: reply.artifacts)


class Registry(Handle, Sized):
    """Trained models, found by the schema of the data they were trained on.

    Obtained from ``Engine.registry``. All methods take ``timeout`` in seconds (None: the engine's)
    and raise ``CallTimeout``, ``WorkerCrashed``, ``StoreFailed``, ``StoreCorrupt`` or
    ``EngineClosed`` besides what they name; writes raise ``StoreFull`` or ``StoreReadOnly``, and
    nothing has changed then.

    Distances go from 0 to 1 and are float32, see ``holdfast.formats.fingerprint``; of models that
    are equally near, the one with the smaller schema hash comes first. In the original a schema
    with mappings and one without may have a distance of 0: with ``strict`` a model trained with
    mappings is found for the very same schema and mappings only.
    """

    @operation
    def save(self, artifact: ModelArtifact, *, timeout: float | None = None) -> Call[None]:
        """Save a model under the hash of its schema, in place of the one that is there.

        Raises ``InvalidArgument`` or ``LimitExceeded`` naming what is wrong with it: no row of
        parameters for a field, values that are not finite, statistics out of range.
        """
        return Call(rm.RegistrySave([_savable("artifact", artifact)]), _done, timeout)

    @operation
    def save_many(
        self, artifacts: Iterable[ModelArtifact], *, timeout: float | None = None
    ) -> Call[None]:
        """Save several models: all or none, in one write of the file. The last of a hash counts."""
        if isinstance(artifacts, ModelArtifact) or not isinstance(artifacts, Iterable):
            raise InvalidArgument(f"artifacts are in a list, not {type(artifacts).__name__}")
        encoded = [_savable(f"artifacts[{n}]", one) for n, one in enumerate(artifacts)]
        size = sum(map(len, encoded))
        if size > BATCH_BYTES_MAX:
            raise LimitExceeded(
                f"artifacts of {size} bytes are over the limit of {BATCH_BYTES_MAX} for one call"
            )
        return Call(rm.RegistrySave(encoded), _done, timeout)

    @operation
    def get_exact(
        self, fingerprint: Fingerprint | bytes, *, timeout: float | None = None
    ) -> Call[ModelArtifact | None]:
        """The model saved under this fingerprint's hash, or under this hash of 32 bytes."""
        return Call(rm.RegistryGet(_hash(fingerprint)), _found, timeout)

    @operation
    def get_nearest(
        self, fingerprint: Fingerprint, *, strict: bool = False, timeout: float | None = None
    ) -> Call[Neighbour | None]:
        """The model whose schema is nearest, and its distance; None when there are no models."""
        return Call(_asking(fingerprint, 1, strict), _neighbour, timeout)

    @operation
    def nearest(
        self,
        fingerprint: Fingerprint,
        k: int = 10,
        *,
        strict: bool = False,
        timeout: float | None = None,
    ) -> Call[list[Neighbour]]:
        """The ``k`` models whose schemas are nearest, from the nearest on."""
        return Call(_asking(fingerprint, k, strict), _neighbours, timeout)

    @operation
    def lookup_startup_mode(
        self, fingerprint: Fingerprint, *, strict: bool = False, timeout: float | None = None
    ) -> Call[StartupMode]:
        """How to start on data of this fingerprint.

        ``WarmLoad`` when there is a model under its hash, whatever the statistics; else
        ``WarmStart`` when the nearest is at a distance of at most 0.25; else ``ColdStart``. A model
        whose parameters do not fit its fields, which can only come from elsewhere, is passed over.
        """
        check_flag("strict", strict)
        return Call(rm.RegistryStartup(_encoded(fingerprint), strict), _mode, timeout)

    @operation
    def list_all(self, *, timeout: float | None = None) -> Call[list[ModelArtifact]]:
        """All models, in order of their keys; one moment's state."""
        return Call(rm.RegistryList(), _listed, timeout)

    @operation
    def count(self, *, timeout: float | None = None) -> Call[int]:
        """How many models there are; so does ``len``."""
        return Call(messages.StoreStatus(), _count, timeout)

    @operation
    def delete(
        self, schema_hash: Fingerprint | bytes, *, timeout: float | None = None
    ) -> Call[bool]:
        """Remove the model saved under this hash of 32 bytes; whether there was one."""
        return Call(rm.RegistryDelete(_hash(schema_hash)), _deleted, timeout)

    @operation
    def status(self, *, timeout: float | None = None) -> Call[rm.RegistryStatus]:
        """Figures of the store: models, bytes, durability, last sync."""
        return Call(messages.StoreStatus(), _status, timeout)


class AsyncRegistry(AsyncHandle):
    """``Registry`` for asyncio: the same operations, awaitable."""

    save = awaitable(Registry.save)
    save_many = awaitable(Registry.save_many)
    get_exact = awaitable(Registry.get_exact)
    get_nearest = awaitable(Registry.get_nearest)
    nearest = awaitable(Registry.nearest)
    lookup_startup_mode = awaitable(Registry.lookup_startup_mode)
    list_all = awaitable(Registry.list_all)
    count = awaitable(Registry.count)
    delete = awaitable(Registry.delete)
    status = awaitable(Registry.status)


def _savable(what: str, artifact: object) -> bytes:
    """An artifact's bytes; an error is about ``what``."""
    if not isinstance(artifact, ModelArtifact):
        raise InvalidArgument(f"{what} is a ModelArtifact, not {type(artifact).__name__}")
    try:
        model_artifact.check_savable(artifact)
    except InvalidArgument as error:
        raise type(error)(f"{what}: {error.message}") from None
    data = model_artifact.encode(artifact)
    if len(data) > ARTIFACT_BYTES_MAX:
        raise LimitExceeded(
            f"{what} of {len(data)} bytes is over the limit of {ARTIFACT_BYTES_MAX}"
        )
    return data


def _hash(given: object) -> bytes:
    digest = given.schema_hash if isinstance(given, Fingerprint) else given
    if not isinstance(digest, bytes) or len(digest) != HASH_BYTES:
        raise InvalidArgument(
            f"a schema hash is {HASH_BYTES} bytes, or a fingerprint, not {digest!r:.80}"
        )
    return digest


def _encoded(fingerprint: object) -> bytes:
    if not isinstance(fingerprint, Fingerprint):
        raise InvalidArgument(
            f"fingerprint is a SchemaFingerprint, not {type(fingerprint).__name__}"
        )
    check_fingerprint(fingerprint)
    return encode_fingerprint(fingerprint)


def _asking(fingerprint: object, k: object, strict: bool) -> rm.RegistryNearest:
    check_flag("strict", strict)
    return rm.RegistryNearest(_encoded(fingerprint), check_count("k", k), strict)
