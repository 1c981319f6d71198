"""The original's files in tests/data/rvf: what they hold, and how their vectors were made.

expected.json went through float64, so its numbers are right to 53 bits. The larger ones, which are
timestamps and the id 2^64-1, are read as floats.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentHeader

DATA = Path(__file__).resolve().parents[2] / "data" / "rvf"


def _number(text: str) -> float:
    return int(text) if abs(int(text)) < 1 << 53 else float(text)


REFERENCE: dict[str, Any] = json.loads(
    (DATA / "expected.json").read_text(encoding="utf-8"), parse_int=_number
)
EXPECTED: dict[str, dict[str, Any]] = REFERENCE["files"]
DAMAGED: dict[str, dict[str, Any]] = REFERENCE["damaged"]
NPM: dict[str, dict[str, Any]] = {
    name: entry
    for name, entry in json.loads(
        (DATA / "npm-0.2.2" / "expected_npm.json").read_text(encoding="utf-8")
    ).items()
    if (DATA / "npm-0.2.2" / name).exists()  # one is an answer of the live handle, not a file
}


class Segment(NamedTuple):
    """One segment of a file."""

    offset: int
    header: SegmentHeader
    payload: bytes


@cache
def load(name: str) -> bytes:
    """A file's content; those of the source tree are what expected.json was made from."""
    data = (DATA / name).read_bytes()
    if name in EXPECTED:
        assert hashlib.sha256(data).hexdigest() == EXPECTED[name]["sha256"]
    return data


def load_npm(name: str) -> bytes:
    """A file of the published binary."""
    return load(f"npm-0.2.2/{name}")


def segments(data: bytes, kind: int | None = None) -> list[Segment]:
    """All segments of a file, or those of one type, in order."""
    found = []
    for offset, header in walk(memoryview(data)):
        start = offset + HEADER_BYTES
        if kind is None or header.type == kind:
            payload = data[start : start + header.payload_bytes]
            found.append(Segment(offset, header, payload))
    return found


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def recipe_vectors(seed: int, rows: Sequence[int], dimension: int) -> NDArray[np.float32]:
    """Vectors (n, dimension) by the recipe in expected.json."""
    seeded = _splitmix64(np.array([seed], np.uint64))
    rowed = _splitmix64(seeded ^ np.array(rows, np.uint64))[:, np.newaxis]
    mixed = _splitmix64(rowed ^ np.arange(dimension, dtype=np.uint64))
    return ((mixed >> np.uint64(40)) / (1 << 23) - 1).astype(np.float32)


def npm_vectors(rows: int) -> NDArray[np.float32]:
    """The first vectors (rows, 4) of the published binary's files, as they were given to it."""
    steps = np.arange(rows * 4)
    return ((37 * steps % 101 - 48) / 8).astype(np.float32).reshape(rows, 4)
