"""The messages of the warm store; part of ``holdfast.workers.messages``."""

from holdfast.workers.message import Message


class WarmOptions(Message, frozen=True, tag="warm"):
    """What a warm store is made with; None means: as it is, else the default."""

    dimension: int | None = None
