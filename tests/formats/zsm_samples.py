"""The golden files of the registry, and an independent reader of what is written here."""

import hashlib
import json
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.formats.fingerprint import FieldStats, Fingerprint

DATA = Path(__file__).parents[1] / "data" / "zsm"
KINDS = [
    "Name",
    "Date",
    "Address",
    "Phone",
    "Id",
    "FreeText",
    "Numeric",
    "Categorical",
    "Alias",
    "LicensePlate",
    "GpsCoordinate",
    "Timestamp",
]


@cache
def expected() -> dict[str, Any]:
    """What the original said of the golden files."""
    found: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    return found


@cache
def content(name: str) -> bytes:
    """A golden file."""
    return (DATA / name).read_bytes()


def golden_fingerprint(fields: dict[str, Any]) -> Fingerprint:
    """A fingerprint of ``expected.json``."""
    stats = tuple(
        FieldStats(
            one["name"], one["kind"], bits(one["null_rate_bits"]), one["cardinality"],
            tuple(one["top_k"]),
        )
        for one in fields["field_stats"]
    )  # fmt: skip
    return Fingerprint(
        bytes.fromhex(fields["schema_hash"]), stats, fields["record_count"], fields["created_at"]
    )


def bits(text: str) -> float:
    """The float32 of these big-endian bits."""
    number: float = struct.unpack(">f", bytes.fromhex(text))[0]
    return number


def hex_of(number: float) -> str:
    """The big-endian bits of a float32."""
    return struct.pack(">f", number).hex()


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.number()).decode()

    def floats(self) -> list[str]:
        return [self.take(4)[::-1].hex() for _ in range(self.number())]


def read_artifact(data: bytes, at: int = 0) -> tuple[dict[str, Any], int]:
    """One artifact, by the specification alone, and where it ends."""
    c = _Cursor(data, at)
    found: dict[str, Any] = {"schema_hash": c.take(32).hex()}
    found["fields"] = [
        {
            "name": c.text(),
            "kind": KINDS[c.number(4)],
            "null_rate": c.take(4)[::-1].hex(),
            "cardinality": c.number(),
            "top_k": [c.text() for _ in range(c.number())],
        }
        for _ in range(c.number())
    ]
    found["record_count"], found["created_at"] = c.number(), c.number()
    found["m"] = [c.floats() for _ in range(c.number())]
    found["u"] = [c.floats() for _ in range(c.number())]
    for name in ("log_prior_odds", "upper_threshold", "lower_threshold"):
        found[name] = c.take(4)[::-1].hex()
    tag = c.number(1)
    assert tag in (0, 1)
    found["tag"] = c.text() if tag else None
    found["trained_on"], found["em_iterations"] = c.number(), c.number()
    return found, c.at


def read_file(data: bytes) -> tuple[dict[str, dict[str, Any]], int]:
    """Every artifact by its key, by the specification alone, and where the entries end."""
    assert data[:4] == bytes([0x5A, 0x53, 0x4D, 0x01])
    found: dict[str, dict[str, Any]] = {}
    at = 12
    for _ in range(int.from_bytes(data[4:12], "little")):
        key = data[at : at + 32].hex()
        found[key], at = read_artifact(data, at + 32)
    return found, at


def check_checks(data: bytes, end: int) -> None:
    """The checks behind the entries are those that the entries call for."""
    magic = b"HFZCHK\x00\x01"
    ends, at = [], 12
    while at < end:
        _, at = read_artifact(data, at + 32)
        ends.append(at)
    bounds = [12, *ends]
    table = b"".join(
        struct.pack("<QI", stop, zlib.crc32(data[start:stop]))
        for start, stop in zip(bounds, ends, strict=False)
    )
    checks = magic + table + struct.pack("<QQ", len(ends), end)
    checks += struct.pack("<I", zlib.crc32(data[:12] + checks)) + magic
    assert data[end:] == checks


def sha256(data: bytes) -> str:
    """A digest as text."""
    return hashlib.sha256(data).hexdigest()


def float_of(text: str) -> float:
    """The float64 of these big-endian bits."""
    return float(np.frombuffer(bytes.fromhex(text), ">f8")[0])
