"""Placeholder."""

from typing import Any


def available() -> bool:
    return False


AnnIndex: Any = None
