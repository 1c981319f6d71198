"""What all messages share; see ``holdfast.workers.messages`` for the rest."""

from typing import Literal

import msgspec

Durability = Literal["always", "interval", "never"]


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all messages."""
