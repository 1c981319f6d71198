"""The least that work costs on this machine by the plainest means, which figures are held to."""

import contextlib
import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import lz4.block
import numpy as np
import zstandard

from holdfast.bench import data
from holdfast.bench.bare import sync
from holdfast.bench.callers import spawning
from holdfast.bench.measure import Measurement, in_turn, medians, seconds, seconds_per_call
from holdfast.bench.run import Run
from holdfast.bench.transport import size_name
from holdfast.formats.checksum import crc32

Ask = Callable[[bytes, int], bytes]
"""Send a request to another process, and get so many bytes back."""

_SIZE = struct.Struct("<Q")
_BLOCK_BYTES = 64 << 20
_CODED_BYTES = 8 << 20
_WIDTH = 128  # of the matrices
_GB = 1e9


def _answer(pipe: Connection) -> None:
    """Body of the process at the other end of the pipe."""
    bodies: dict[int, bytes] = {}
    with contextlib.suppress(EOFError):
        while True:
            (size,) = _SIZE.unpack_from(pipe.recv_bytes())
            if size not in bodies:
                bodies[size] = bytes(size)
            pipe.send_bytes(bodies[size])


@contextlib.contextmanager
def piped() -> Iterator[Ask]:
    """A process at the end of a bare ``multiprocessing.Pipe``, which does nothing but answer."""
    ours, theirs = spawning.Pipe()
    child = spawning.Process(target=_answer, args=(theirs,))
    child.start()
    theirs.close()

    def ask(request: bytes, size: int) -> bytes:
        ours.send_bytes(_SIZE.pack(size) + request)
        return ours.recv_bytes()

    try:
        yield ask
    finally:
        ours.close()
        child.join()


def asked(ask: Ask, request: bytes, size: int, calls: int) -> Measurement:
    """Seconds of a round trip with these sizes."""
    return lambda: seconds_per_call(lambda: ask(request, size), calls)


def appended(run: Run, bodies: Sequence[bytes], count: int, *, synced: bool) -> Measurement:
    """Append these bodies to a new file, each synced or none; seconds for each of ``count``."""

    def measure() -> float:
        with run.fresh() as directory:
            path = os.path.join(directory, "log")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                return seconds(lambda: append(descriptor)) / count
            finally:
                os.close(descriptor)

    def append(descriptor: int) -> None:
        for body in bodies:
            os.write(descriptor, body)
            if synced:
                sync(descriptor)

    return measure


def copied(size: int, count: int = 1) -> Measurement:
    """Copy so many bytes in memory that is there already; seconds for each of ``count``."""
    source = np.ones(size, np.uint8)
    target = np.zeros_like(source)
    return lambda: seconds(lambda: np.copyto(target, source)) / count


# --- the machine -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speed:
    """What the machine does at most, or at least, in a unit."""

    what: str
    value: float
    unit: str

    def as_json(self) -> dict[str, object]:
        """As plain values."""
        return {"what": self.what, "value": self.value, "unit": self.unit}


def of_machine(run: Run, bodies: Sequence[int], repetitions: int) -> list[Speed]:
    """The speeds that the rows' limits are made of; medians of measurements in turn."""
    work: dict[str, tuple[str, Measurement]] = {}
    with piped() as ask:
        for size in bodies:
            work[f"echo of {size_name(size)} over a Pipe"] = "us", _echo(ask, size)
        entry = bytes(data.KEY_BYTES + data.VALUE_BYTES)
        work["append + fdatasync of 260 B"] = "us", appended(run, [entry] * 50, 50, synced=True)
        work |= _of_memory()
        middle = medians(in_turn({name: measure for name, (_, measure) in work.items()}, 1))
        middle = medians(
            in_turn({name: measure for name, (_, measure) in work.items()}, repetitions)
        )
    return [
        Speed(name, middle[name] * 1e6 if unit == "us" else 1 / middle[name] / _GB, unit)
        for name, (unit, _) in work.items()
    ]


def _echo(ask: Ask, size: int) -> Measurement:
    return asked(ask, bytes(size), size, 100)


def _of_memory() -> dict[str, tuple[str, Measurement]]:
    """Seconds for a byte, or for a floating point operation."""
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, _BLOCK_BYTES, np.uint8)
    matrix = rng.standard_normal((_BLOCK_BYTES // 4 // _WIDTH, _WIDTH), np.float32)
    few = np.ascontiguousarray(matrix[:_WIDTH].T)
    plain = b"".join(data.key(number).encode() for number in range(_CODED_BYTES // data.KEY_BYTES))
    packed_lz4, packed = lz4.block.compress(plain), zstandard.compress(plain, 3)
    flops = 2 * matrix.size * _WIDTH
    vectors = itertools.cycle(few.T)
    return {
        "memcpy": ("GB/s", copied(_BLOCK_BYTES, _BLOCK_BYTES)),
        "BLAS sgemv": ("GB/s", _each(lambda: matrix @ next(vectors), matrix.nbytes)),
        "BLAS sgemm": ("GFLOP/s", _each(lambda: matrix @ few, flops)),
        "CRC-32": ("GB/s", _each(lambda: crc32(block.data), _BLOCK_BYTES)),
        "lz4, compressing keys": ("GB/s", _each(lambda: lz4.block.compress(plain), len(plain))),
        "lz4, expanding": ("GB/s", _each(lambda: lz4.block.decompress(packed_lz4), len(plain))),
        "zstd 3, compressing keys": (
            "GB/s",
            _each(lambda: zstandard.compress(plain, 3), len(plain)),
        ),
        "zstd 3, expanding": ("GB/s", _each(lambda: zstandard.decompress(packed), len(plain))),
    }


def _each(work: Callable[[], object], count: int) -> Measurement:
    return lambda: seconds(work) / count
