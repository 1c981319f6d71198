"""The actor that xoscar makes, which its pool imports by name; xoscar has to be installed."""

import importlib
from collections.abc import Sequence
from typing import Any

_Actor: Any = importlib.import_module("xoscar").Actor


class Bodies(_Actor):  # type: ignore[misc]  # Any: it may not be installed
    """Bodies by their size."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._bodies = {size: bytes(size) for size in sizes}

    def get(self, size: int) -> bytes:
        """The body of this size."""
        return self._bodies[size]
