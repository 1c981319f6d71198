"""ADDROT, the 32-byte fingerprint of images, witnesses and parents (RVF 6).

The original's comments call it SHAKE-256, which it is not: anybody can make bytes with a wanted
fingerprint. It notices accidents and proves nothing::

    o = 32 zero bytes
    for byte number i with the value b, one after the other, all modulo 256:
        o[i % 32]        += b
        o[(i + 13) % 32] += o[i % 32] rotated left by 3 bits

Step i touches the bytes i and i + 13, so steps i to i + 12 do not see each other's results, and 13
of them are done at once. The state is one integer of 32 lanes, 16 bits each so that sums have room,
with the byte whose turn it is in the lowest lane. A lane is cut back to 8 bits only when its turn
comes, which is after two additions at most.
"""

import struct
from collections.abc import Callable

import numpy as np

from holdfast.formats.rvf.segment import Buffer

HASH_BYTES = 32

_STRIDE = 13
_LANE_BITS = 16
_STRIDE_BITS = _STRIDE * _LANE_BITS
_REST_BITS = (HASH_BYTES - _STRIDE) * _LANE_BITS
_LOW_BYTES = int.from_bytes(b"\xff\0" * _STRIDE, "little")
_STEP = struct.Struct(f"{_STRIDE * 2}s")
_BYTES_PER_TICK = _STRIDE << 16


def _no_tick() -> None:
    pass


def addrot(data: Buffer, tick: Callable[[], None] = _no_tick) -> bytes:
    """The fingerprint of ``data``, 32 bytes; some 30 MB a second, ``tick`` every 0.9 MB."""
    whole = len(data) - len(data) % _STRIDE
    state = 0
    low_bytes, from_bytes = _LOW_BYTES, int.from_bytes
    for start in range(0, whole, _BYTES_PER_TICK):
        tick()
        part = np.frombuffer(data, np.uint8, min(_BYTES_PER_TICK, whole - start), start)
        lanes = part.astype("<u2").tobytes()
        for (step,) in _STEP.iter_unpack(lanes):
            low = (state + from_bytes(step, "little")) & low_bytes
            rotated = (low << 3 | low >> 5) & low_bytes
            state = ((state >> _STRIDE_BITS) + rotated) | low << _REST_BITS
    lanes = state.to_bytes(HASH_BYTES * 2, "little")
    turned = whole % HASH_BYTES
    out = bytearray(HASH_BYTES)
    for place in range(HASH_BYTES):
        out[(turned + place) % HASH_BYTES] = lanes[place * 2]
    for number in range(whole, len(data)):
        here, there = number % HASH_BYTES, (number + _STRIDE) % HASH_BYTES
        byte = out[here] = (out[here] + data[number]) & 0xFF
        out[there] = (out[there] + (byte << 3 | byte >> 5)) & 0xFF
    return bytes(out)
