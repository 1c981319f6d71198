"""Checksums that are always 1: a fuzzer cannot guess a right one, and what it hides stays unseen.

With these, files whose checksums are 1 are intact, and files that are written have those. Not 0,
since that stands for no checksum in some formats.
"""

import sys

from holdfast.formats import checksum


def _constant(data: object, value: int = 0) -> int:
    return 1


def _constant_combined(first: int, second: int, length: int) -> int:
    return 1


def weaken() -> None:
    """Have all formats use these from now on; none that has checksums may be loaded yet."""
    assert "holdfast.formats.fold_log" not in sys.modules, "it already uses the real ones"
    checksum.crc32 = _constant
    checksum.crc32_combine = _constant_combined
