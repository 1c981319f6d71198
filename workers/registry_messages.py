"""The messages of the registry; part of ``holdfast.workers.messages``.

Artifacts and fingerprints travel as the bytes that the file has; see ``formats.model_artifact``.
"""

from typing import Annotated

import msgspec

from holdfast.formats.limits import HASH_BYTES
from holdfast.workers.message import Durability, Message

SchemaHash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class RegistrySave(Message, frozen=True, tag=100):
    """Save artifacts, each under the hash of its schema, in place of what is there."""

    artifacts: list[bytes]


class RegistryGet(Message, frozen=True, tag=101):
    """The artifact under this key."""

    key: SchemaHash


class RegistryNearest(Message, frozen=True, tag=102):
    """The ``k`` artifacts nearest to a fingerprint.

    ``strict`` leaves out models whose schema has mappings, or all if the fingerprint has, but for
    one with the very same hash.
    """

    fingerprint: bytes
    k: int
    strict: bool = False


class RegistryStartup(Message, frozen=True, tag=103):
    """With which model to start on data of this fingerprint."""

    fingerprint: bytes
    strict: bool = False


class RegistryList(Message, frozen=True, tag=104):
    """All artifacts."""


class RegistryDelete(Message, frozen=True, tag=105):
    """Remove the artifact under this key."""

    key: SchemaHash


RegistryRequest = (
    RegistrySave | RegistryGet | RegistryNearest | RegistryStartup | RegistryList | RegistryDelete
)

WRITES = (RegistrySave, RegistryDelete)


class RegistryFound(Message, frozen=True, tag=100):
    """An artifact, or none."""

    artifact: bytes | None


class Neighbour(Message, frozen=True):
    """An artifact and its distance."""

    artifact: bytes
    distance: float


class RegistryNeighbours(Message, frozen=True, tag=101):
    """Artifacts from the nearest on."""

    found: list[Neighbour]


class RegistryStart(Message, frozen=True, tag=102):
    """An artifact to load, one to start from if it has a distance, or none."""

    artifact: bytes | None
    distance: float | None


class RegistryArtifacts(Message, frozen=True, tag=103):
    """Artifacts, sorted by key."""

    artifacts: list[bytes]


class RegistryDeleted(Message, frozen=True, tag=104):
    """Whether there was one to delete."""

    deleted: bool


class RegistryStatus(Message, frozen=True, tag=105):
    """A registry's figures. Sizes in bytes, ages in seconds.

    ``checked`` says whether the file that was opened had checksums; what the original writes has
    none. ``fell_back`` says that opening found the file lost to a power failure before it was
    synced, and took the generation synced last.
    """

    kind: str
    path: str
    durability: Durability
    artifacts: int
    file_bytes: int
    synced_age_s: float | None
    unsynced_bytes: int
    checked: bool
    fell_back: bool
    pid: int


RegistryReply = (
    RegistryFound
    | RegistryNeighbours
    | RegistryStart
    | RegistryArtifacts
    | RegistryDeleted
    | RegistryStatus
)
