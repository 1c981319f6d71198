"""What the command line prints of a registry's artifacts."""

import struct
from datetime import UTC, datetime

from holdfast.formats.model_artifact import ModelArtifact, Rows

_SECONDS_MAX = 253_402_300_799  # the last of the year 9999


def artifact_fields(key: bytes, artifact: ModelArtifact) -> dict[str, object]:
    """An artifact as JSON has it; floats as the big-endian bits of a float32, so none is lost."""
    fingerprint = artifact.fingerprint
    fields: dict[str, object] = {
        "schema_hash": artifact.schema_hash.hex(),
        "tag": artifact.tag,
        "trained_on": artifact.trained_on,
        "em_iterations": artifact.em_iterations,
        "record_count": fingerprint.record_count,
        "created_at": fingerprint.created_at,
        "fields": [
            {
                "name": stats.name,
                "kind": stats.kind,
                "null_rate": _bits(stats.null_rate),
                "cardinality": stats.cardinality,
                "top_k": list(stats.top_k),
            }
            for stats in fingerprint.field_stats
        ],
        "m": _rows(artifact.m),
        "u": _rows(artifact.u),
        "log_prior_odds": _bits(artifact.log_prior_odds),
        "upper_threshold": _bits(artifact.upper_threshold),
        "lower_threshold": _bits(artifact.lower_threshold),
    }
    return fields if key == artifact.schema_hash else {"key": key.hex()} | fields


def artifact_line(key: bytes, artifact: ModelArtifact) -> str:
    """An artifact as a line of text, escaped: hash, tag, training, schema."""
    stats = artifact.fingerprint.field_stats
    tag = "-" if artifact.tag is None else f"{artifact.tag!a}"
    schema = ", ".join(f"{one.name!a}:{one.kind}" for one in stats[:4])
    more = ", ..." if len(stats) > 4 else ""
    return (
        f"{key.hex()}  {tag}  {_time(artifact.trained_on)}  "
        f"{artifact.fingerprint.record_count} records  {len(stats)} fields: {schema}{more}"
    )


def _rows(rows: Rows) -> list[list[str]]:
    texts = (row.astype(">f4").tobytes().hex() for row in rows)
    return [[text[n : n + 8] for n in range(0, len(text), 8)] for text in texts]


def _bits(number: float) -> str:
    return struct.pack(">f", number).hex()


def _time(seconds: int) -> str:
    if seconds > _SECONDS_MAX:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).isoformat()
