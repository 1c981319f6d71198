"""Placeholder."""

from typing import Any

encode: Any = None
decode: Any = None
