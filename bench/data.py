"""The entries that every row writes: 60-byte keys in scattered order, 200-byte values."""

import os
import random
from collections.abc import Iterator, Sequence

import holdfast
from holdfast.formats import fold_log
from holdfast.formats.values import AnyUpdate

KEY_BYTES = 60
VALUE_BYTES = 200
BATCH = 1024
GROUP = 1000
"""How many keys share a prefix."""

_SCATTER = 2_654_435_761  # a prime: multiplying by it modulo a smaller count is a permutation
_VALUES = 1024
_noise = random.Random(7).randbytes(_VALUES + VALUE_BYTES)


def prefix(group: int) -> str:
    """What the keys of a group begin with."""
    return f"data/group-{group:06d}/"


def key(number: int) -> str:
    """The key of entry ``number``; consecutive numbers share a group."""
    group, member = divmod(number, GROUP)
    return f"{prefix(group)}member-{member:04d}/".ljust(KEY_BYTES, "x")


def value(number: int) -> bytes:
    """200 bytes that do not compress; there are 1,024 different ones."""
    start = number % _VALUES
    return _noise[start : start + VALUE_BYTES]


def scattered(count: int) -> Iterator[int]:
    """The numbers below ``count``, each once, in an order that no index likes."""
    return (ordinal * _SCATTER % count for ordinal in range(count))


def puts(numbers: Sequence[int], salt: int = 0) -> list[AnyUpdate]:
    """These entries as updates; another ``salt`` gives the same keys other values."""
    return [
        holdfast.Put(key(number), value(number + salt), holdfast.Version.from_u64(number))
        for number in numbers
    ]


def batches(count: int, salt: int = 0) -> list[list[AnyUpdate]]:
    """``count`` entries in scattered order, in batches of 1,024."""
    numbers = list(scattered(count))
    return [puts(numbers[start : start + BATCH], salt) for start in range(0, count, BATCH)]


def write_log(path: str, count: int) -> int:
    """Write a fold's log of ``count`` entries as an engine would have; returns its length."""
    with open(path, "wb", buffering=1 << 20) as file:
        file.write(fold_log.HEADER)
        for position, number in enumerate(scattered(count), 1):
            token = number.to_bytes(8, "big")
            file.write(fold_log.encode_put(key(number).encode(), value(number), token))
            if not position % BATCH or position == count:
                file.write(fold_log.encode_cursor(position.to_bytes(8, "big")))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
