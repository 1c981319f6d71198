"""A trained model as the registry keeps it: for which schema, its parameters, and its bytes.

One artifact, after Bincode (see ``holdfast.formats.bincode``), fields in this order::

    schema hash          32 bytes
    field statistics     Vec of: name String, kind u32, null rate f32, cardinality u64,
                         top k Vec<String>
    record count         u64
    created at           u64, seconds since 1970
    m                    Vec of Vec<f32>: a row for each field, a column for each level
    u                    likewise
    log prior odds       f32
    upper threshold      f32
    lower threshold      f32
    tag                  Option<String>
    trained on           u64, seconds since 1970
    EM iterations        u64

Kinds are the codes of ``fingerprint.CODES``; a code without a kind is refused. Floats may be any
32 bits, and keep them when an artifact is read; only a single float (not one of m or u) that is a
signalling NaN becomes a quiet one, as in any conversion to Python's float.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.formats import bincode
from holdfast.formats.bincode import Malformed, Reader
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import (
    CODES,
    KINDS,
    FieldStats,
    Fingerprint,
    check_fingerprint,
    check_text,
    check_u64,
)
from holdfast.formats.limits import ARTIFACT_BYTES_MAX, HASH_BYTES

Rows = tuple[NDArray[np.float32], ...]

_STATS_BYTES_MIN = 8 + 4 + 4 + 8 + 8
_FLOAT_BYTES = 4
_ROUNDING = 1e-6
_FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False, init=False)
class ModelArtifact:
    """A trained model: Fellegi-Sunter parameters and the schema they were estimated on.

    ``m`` and ``u`` are the probabilities of each level of agreement among matching and among other
    pairs: one float32 array for each field, in the order of ``fingerprint.field_stats``, taken from
    a matrix or from any rows of numbers. ``log_prior_odds`` and the thresholds are float32.
    ``trained_on`` is in seconds since 1970. Two artifacts are equal when their bytes are.

    Raises ``InvalidArgument`` or ``LimitExceeded`` for values of the wrong type or range; whether
    they fit together, and are probabilities, is checked when they are saved.
    """

    fingerprint: Fingerprint
    m: Rows
    u: Rows
    log_prior_odds: float
    upper_threshold: float
    lower_threshold: float
    tag: str | None
    trained_on: int
    em_iterations: int

    def __init__(
        self,
        fingerprint: Fingerprint,
        m: ArrayLike | Rows,
        u: ArrayLike | Rows,
        log_prior_odds: float | np.floating,
        upper_threshold: float | np.floating,
        lower_threshold: float | np.floating,
        tag: str | None = None,
        *,
        trained_on: int,
        em_iterations: int = 0,
    ) -> None:
        if not isinstance(fingerprint, Fingerprint):
            raise InvalidArgument(
                f"fingerprint is a SchemaFingerprint, not {type(fingerprint).__name__}"
            )
        if tag is not None:
            check_text("tag is", tag)
        check_u64("trained_on", trained_on)
        check_u64("em_iterations", em_iterations)
        values = {
            "fingerprint": fingerprint,
            "m": _rows("m", m),
            "u": _rows("u", u),
            "log_prior_odds": _float("log_prior_odds", log_prior_odds),
            "upper_threshold": _float("upper_threshold", upper_threshold),
            "lower_threshold": _float("lower_threshold", lower_threshold),
            "tag": tag,
            "trained_on": trained_on,
            "em_iterations": em_iterations,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def schema_hash(self) -> bytes:
        """Of the schema that the model was trained on: what it is saved under."""
        return self.fingerprint.schema_hash

    @property
    def misfit(self) -> str | None:
        """Why the parameters do not fit the fields, if they do not."""
        return misfit(
            len(self.fingerprint.field_stats),
            [len(row) for row in self.m],
            [len(row) for row in self.u],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelArtifact):
            return NotImplemented
        return encode(self) == encode(other)

    def __hash__(self) -> int:
        return hash((self.schema_hash, self.tag, self.trained_on))


def misfit(fields: int, m: list[int], u: list[int]) -> str | None:
    """Why rows of these lengths do not fit so many fields, if they do not."""
    for name, rows in (("m", m), ("u", u)):
        if len(rows) != fields:
            return f"{name} has {len(rows)} rows, and the schema has {fields} fields"
    for number, (of_m, of_u) in enumerate(zip(m, u, strict=True)):
        if of_m != of_u:
            return f"m[{number}] has {of_m} levels, and u[{number}] has {of_u}"
        if not of_m:
            return f"m[{number}] has no levels"
    return None


def check_savable(artifact: ModelArtifact) -> None:
    """Raise ``InvalidArgument`` or ``LimitExceeded`` naming what makes a model of no use.

    More is refused than on reading, since what others have written has to stay legible.
    """
    check_fingerprint(artifact.fingerprint)
    unfit = artifact.misfit or implausible(artifact)
    if unfit is not None:
        raise InvalidArgument(unfit)


def implausible(artifact: ModelArtifact) -> str | None:
    """Why values of a model cannot be what their names say, if they cannot.

    A probability may be over 1 by what rounding adds to a sum of float32.
    """
    for name, rows in (("m", artifact.m), ("u", artifact.u)):
        for number, row in enumerate(rows):
            bad = np.flatnonzero(~((row >= 0) & (row <= 1 + _ROUNDING)))
            if len(bad):
                return f"{name}[{number}][{bad[0]}] is {row[bad[0]]}, which is no probability"
    if not math.isfinite(artifact.log_prior_odds):
        return f"log_prior_odds is {artifact.log_prior_odds}, which no evidence can move"
    upper, lower = artifact.upper_threshold, artifact.lower_threshold
    for name, threshold in (("upper_threshold", upper), ("lower_threshold", lower)):
        if math.isnan(threshold):
            return f"{name} is not a number"
    if upper < lower:
        return f"upper_threshold {upper} is below lower_threshold {lower}"
    return None


def _rows(name: str, given: object) -> Rows:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidArgument(f"{name} is a matrix or rows of numbers, not {type(given).__name__}")
    return tuple(_row(f"{name}[{number}]", row) for number, row in enumerate(given))


def _row(name: str, given: object) -> NDArray[np.float32]:
    if isinstance(given, np.ndarray) and given.dtype == np.float32 and not given.flags.writeable:
        numbers = row = given
    else:
        try:
            numbers = np.asarray(given)
        except ValueError as error:
            raise InvalidArgument(f"{name} is a row of numbers: {error}") from None
        if numbers.size and numbers.dtype.kind not in "fiu":
            raise InvalidArgument(f"{name} is a row of numbers, not of {numbers.dtype}")
        with np.errstate(over="ignore"):
            row = np.array(numbers, np.float32)
        row.flags.writeable = False
    if row.ndim != 1:
        raise InvalidArgument(f"{name} is a row of numbers, and has {row.ndim} dimensions")
    for index in np.flatnonzero(np.isinf(row)):
        if not np.isinf(numbers[index]):
            raise LimitExceeded(f"{name}[{index}] is {numbers[index]}, too large for a float32")
    return row


def _float(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | np.floating):
        raise InvalidArgument(f"{name} is a number, not {type(given).__name__}")
    try:
        number = float(given)
    except OverflowError:
        raise LimitExceeded(f"{name} is {given}, too large for a float32") from None
    if math.isfinite(number) and abs(number) > _FLOAT_MAX:
        raise LimitExceeded(f"{name} is {given}, too large for a float32")
    return float(np.float32(number))


# --- bytes -------------------------------------------------------------------------------------


def encode(artifact: ModelArtifact) -> bytes:
    """An artifact's bytes."""
    return b"".join(
        (
            encode_fingerprint(artifact.fingerprint),
            _encode_rows(artifact.m),
            _encode_rows(artifact.u),
            bincode.f32(artifact.log_prior_odds),
            bincode.f32(artifact.upper_threshold),
            bincode.f32(artifact.lower_threshold),
            bincode.optional(artifact.tag, bincode.text),
            bincode.u64(artifact.trained_on),
            bincode.u64(artifact.em_iterations),
        )
    )


def encode_fingerprint(fingerprint: Fingerprint) -> bytes:
    """The part of an artifact that is its fingerprint."""
    stats = (
        b"".join(
            (
                bincode.text(stats.name),
                bincode.u32(CODES[stats.kind]),
                bincode.f32(float(stats.null_rate)),
                bincode.u64(stats.cardinality),
                bincode.sequence(map(bincode.text, stats.top_k)),
            )
        )
        for stats in fingerprint.field_stats
    )
    return b"".join(
        (
            fingerprint.schema_hash,
            bincode.sequence(stats),
            bincode.u64(fingerprint.record_count),
            bincode.u64(fingerprint.created_at),
        )
    )


def _encode_rows(rows: Rows) -> bytes:
    return bincode.sequence(
        bincode.u64(len(row)) + row.astype("<f4", copy=False).tobytes() for row in rows
    )


def decode(
    data: bytes | memoryview,
    fingerprint_class: Callable[..., Fingerprint] = Fingerprint,
) -> ModelArtifact:
    """The artifact that ``data`` is, to its last byte; raises ``Malformed``."""
    reader = Reader(memoryview(data))
    artifact = read(reader, fingerprint_class)
    if reader.left:
        raise Malformed(reader.offset, f"{reader.left} bytes are left behind the artifact")
    return artifact


def read(
    reader: Reader, fingerprint_class: Callable[..., Fingerprint] = Fingerprint
) -> ModelArtifact:
    """Read one artifact; raises ``Malformed``."""
    return ModelArtifact(
        fingerprint=read_fingerprint(reader, fingerprint_class),
        m=_read_rows(reader, "m"),
        u=_read_rows(reader, "u"),
        log_prior_odds=reader.f32("the log prior odds"),
        upper_threshold=reader.f32("the upper threshold"),
        lower_threshold=reader.f32("the lower threshold"),
        tag=reader.optional(reader.text, "the tag"),
        trained_on=reader.u64("the training time"),
        em_iterations=reader.u64("the EM iterations"),
    )


def read_fingerprint(
    reader: Reader, fingerprint_class: Callable[..., Fingerprint] = Fingerprint
) -> Fingerprint:
    """Read a fingerprint; raises ``Malformed``."""
    digest = reader.raw(HASH_BYTES, "the schema hash")
    count = reader.count(_STATS_BYTES_MIN, "the list of field statistics")
    stats = tuple(_read_stats(reader) for _ in range(count))
    return fingerprint_class(
        digest, stats, reader.u64("the record count"), reader.u64("the creation time")
    )


def _read_stats(reader: Reader) -> FieldStats:
    name = reader.text("a field's name")
    start = reader.offset
    code = reader.u32("a field's kind")
    if code >= len(KINDS):
        raise Malformed(start, f"a field is of the kind {code}, and {len(KINDS) - 1} is the last")
    null_rate = reader.f32("a null rate")
    cardinality = reader.u64("a cardinality")
    top_k = reader.count(8, "a list of frequent values")
    values = tuple(reader.text("a frequent value") for _ in range(top_k))
    return FieldStats(name, KINDS[code], null_rate, cardinality, values)


def _read_rows(reader: Reader, what: str) -> Rows:
    return tuple(
        np.frombuffer(reader.raw(_FLOAT_BYTES * _row_length(reader, what), what), "<f4")
        for _ in range(reader.count(8, what))
    )


def _row_length(reader: Reader, what: str) -> int:
    return reader.count(_FLOAT_BYTES, f"a row of {what}")


class Outline(NamedTuple):
    """An artifact without its parameters: what is needed to find it."""

    fingerprint: Fingerprint
    misfit: str | None
    end: int


def read_outline(reader: Reader) -> Outline:
    """Read an artifact as ``read`` does, but pass over its parameters; raises ``Malformed``."""
    start = reader.offset
    fingerprint = read_fingerprint(reader)
    lengths: list[list[int]] = []
    for what in ("m", "u"):
        rows: list[int] = []
        for _ in range(reader.count(8, what)):
            rows.append(_row_length(reader, what))
            reader.skip(_FLOAT_BYTES * rows[-1], what)
        lengths.append(rows)
    reader.skip(3 * _FLOAT_BYTES, "the prior and the thresholds")
    reader.optional(reader.text, "the tag")
    reader.skip(16, "the training time and the EM iterations")
    if reader.offset - start > ARTIFACT_BYTES_MAX:
        raise Malformed(
            start,
            f"an artifact of {reader.offset - start} bytes is over the limit of "
            f"{ARTIFACT_BYTES_MAX}",
        )
    unfit = misfit(len(fingerprint.field_stats), *lengths)
    return Outline(fingerprint, unfit, reader.offset)
