"""The export artifact: a directory that holds one fold, complete and checkable.

Layout::

    DEST/
      MANIFEST.json
      data/
        fold.snap           the compacted log (see fold_log); the only payload

MANIFEST.json is one JSON object in UTF-8. It is written with two-space indents, in this order and
without a newline at its end; it is read in any order and spacing::

    field              type     content
    schema_version     u32      layout of the artifact, always 1
    backend            string   "append-log"
    backend_version    string   "2", the log's format version, compared as text
    cursor_hex         string   the cursor in lower-case hex, up to 20 digits; "" is none
    created_at_unix    u64      seconds since 1970, for information only
    files              array    one object:
        path           string       "data/fold.snap"
        size           u64          length in bytes
        blake3         string       64 lower-case hex digits of the plain BLAKE3, compared as text

Every field is required; unknown and repeated ones are refused. The manifest has no checksum of its
own, but it has to agree with the payload in size, in digest and in the cursor.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdfast.formats import fold_log
from holdfast.formats.errors import ArtifactInvalid, InvalidFormat, StoreCorrupt
from holdfast.formats.fold_log import HEADER_BYTES, Ending, Scan, Verdict
from holdfast.formats.limits import MIB, TOKEN_BYTES_MAX
from holdfast.formats.values import Cursor

MANIFEST_NAME = "MANIFEST.json"
DATA_NAME = "data"
PAYLOAD_NAME = "fold.snap"
PAYLOAD_PATH = f"{DATA_NAME}/{PAYLOAD_NAME}"

SCHEMA_VERSION = 1
BACKEND = "append-log"
BACKEND_VERSION = str(fold_log.FORMAT_VERSION)

# Thousands of files, where one is expected; parsed JSON takes some twenty times its text in memory.
MANIFEST_BYTES_MAX = MIB

_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1
_NUMBER_DIGITS_MAX = len(str(_U64_MAX))
_SHOWN_CHARS_MAX = 80
_FIELDS = (
    "schema_version",
    "backend",
    "backend_version",
    "cursor_hex",
    "created_at_unix",
    "files",
)
_FILE_FIELDS = ("path", "size", "blake3")
# The format takes a plus sign for the first digit of a pair, and either case.
_HEX_PAIRS = re.compile(r"(?:[+0-9A-Fa-f][0-9A-Fa-f])*")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What differs from one acceptable manifest to the next; the rest is constant."""

    cursor: Cursor
    created_at_unix: int
    payload_bytes: int
    payload_blake3: str


@dataclass(frozen=True, slots=True)
class _File:
    """An entry of ``files``, its types checked and nothing else."""

    path: str
    size: int
    blake3: str


def encode_manifest(manifest: Manifest) -> bytes:
    """MANIFEST.json, byte for byte as the format prescribes."""
    assert 0 <= manifest.created_at_unix <= _U64_MAX, manifest.created_at_unix
    assert 0 <= manifest.payload_bytes <= _U64_MAX, manifest.payload_bytes
    payload = {
        "path": PAYLOAD_PATH,
        "size": manifest.payload_bytes,
        "blake3": manifest.payload_blake3,
    }
    fields = {
        "schema_version": SCHEMA_VERSION,
        "backend": BACKEND,
        "backend_version": BACKEND_VERSION,
        "cursor_hex": manifest.cursor.token.hex(),
        "created_at_unix": manifest.created_at_unix,
        "files": [payload],
    }
    return json.dumps(fields, indent=2, ensure_ascii=False).encode()


def decode_manifest(data: bytes, path: str = MANIFEST_NAME) -> Manifest:
    """The manifest in ``data``; ``path`` is named in errors.

    Raises ``ArtifactInvalid`` for the first thing that is wrong, and nothing else.
    """
    try:
        return _decode(data)
    except ValueError as error:
        raise ArtifactInvalid(f"{path!r}: {error}", path=path) from error.__cause__


def scan_payload(view: memoryview, table: dict[bytes, int], tick: Callable[[], None]) -> Scan:
    """Read the payload log, header included; see ``fold_log.scan``."""
    problem = fold_log.header_problem(view)
    if len(view) < HEADER_BYTES:
        problem = f"{len(view)} bytes are no log, whose header alone has {HEADER_BYTES}"
    if problem is not None:
        return Scan(0, None, 0, 0, Verdict(Ending.INVALID, 0, problem))
    return fold_log.scan(view, HEADER_BYTES, table, tick=tick)


def check_payload(scan: Scan, manifest: Manifest, path: str) -> None:
    """Raise ``ArtifactInvalid`` if the payload log at ``path`` is not what the manifest promises.

    A torn log will do if its cursor is the one promised: then no update up to it is missing.
    """
    verdict = scan.verdict
    if verdict.ending in (Ending.CORRUPT, Ending.INVALID):
        cls = InvalidFormat if verdict.ending is Ending.INVALID else StoreCorrupt
        damage = f"{path!r} is damaged at offset {verdict.offset}: {verdict.reason}"
        raise ArtifactInvalid(damage, path=path, offset=verdict.offset) from cls(
            damage, path=path, offset=verdict.offset, reason=verdict.reason
        )
    cursor = Cursor.none() if scan.cursor is None else scan.cursor
    if cursor != manifest.cursor:
        torn = f", being torn at offset {verdict.offset}" if verdict.reason else ""
        raise ArtifactInvalid(
            f"the cursor in {path!r} is {cursor!r}{torn}; the manifest says {manifest.cursor!r}",
            path=path,
        )


def _decode(data: bytes) -> Manifest:
    fields = _parse(data)
    schema = fields.get("schema_version")
    if type(schema) is int and schema > SCHEMA_VERSION:
        # Ahead of all else: whatever looks wrong may be right in that schema.
        raise ValueError(
            f"schema_version {schema} is a newer schema, this release reads {SCHEMA_VERSION}"
        )
    _check_names(fields, _FIELDS, "the manifest")
    schema = _unsigned(fields, "schema_version", _U32_MAX)
    backend = _text(fields, "backend")
    backend_version = _text(fields, "backend_version")
    cursor_hex = _text(fields, "cursor_hex")
    created_at_unix = _unsigned(fields, "created_at_unix", _U64_MAX)
    files = _files(fields["files"])
    if schema != SCHEMA_VERSION:
        raise ValueError(f"schema_version {schema} is not {SCHEMA_VERSION}")
    for file in files:
        _check_path(file.path)
    cursor = _cursor(cursor_hex)
    if backend != BACKEND:
        raise ValueError(f"backend is {_shown(backend)}, expected {BACKEND!r}")
    if backend_version != BACKEND_VERSION:
        raise ValueError(
            f"backend_version is {_shown(backend_version)}, this release reads {BACKEND_VERSION!r}"
        )
    if len(files) != 1 or files[0].path != PAYLOAD_PATH:
        found = ", ".join(_shown(file.path) for file in files[:3]) or "none"
        raise ValueError(f"files must be {PAYLOAD_PATH!r} alone, found {len(files)}: {found}")
    return Manifest(cursor, created_at_unix, files[0].size, files[0].blake3)


def _parse(data: bytes) -> dict[str, object]:
    """The JSON object in ``data``, its fields unchecked but for repetition."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes are over the limit of {MANIFEST_BYTES_MAX}")
    try:
        # Decoded here, because json would guess at UTF-16 and UTF-32 as well.
        parsed = json.loads(
            str(data, "utf-8"),
            object_pairs_hook=_object,
            parse_int=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("malformed JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"malformed JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"the manifest is {_kind(parsed)}, expected an object")
    return parsed


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"field {_shown(counts.most_common(1)[0][0])} is repeated")
    return fields


def _number(text: str) -> int | float:
    """An unsigned integer; one that cannot be, being negative or endless, as a float."""
    if text.startswith("-") or len(text) > _NUMBER_DIGITS_MAX:
        return float(text)
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_names(fields: dict[str, object], expected: Iterable[str], what: str) -> None:
    unknown = [name for name in fields if name not in expected]
    if unknown:
        raise ValueError(f"{what} has the unknown field {_shown(unknown[0])}")
    missing = [name for name in expected if name not in fields]
    if missing:
        raise ValueError(f"{what} has no field {missing[0]!r}")


def _unsigned(fields: dict[str, object], name: str, limit: int) -> int:
    value = fields[name]
    if type(value) is int and 0 <= value <= limit:  # a bool is an int, but not of that type
        return value
    shown = isinstance(value, int | float) and not isinstance(value, bool)
    found = _shown(value) if shown else _kind(value)
    raise ValueError(f"{name} is {found}, expected an integer from 0 to {limit}")


def _text(fields: dict[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}, expected a string")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{name} is {_shown(value)}, which is not valid Unicode")
    return value


def _files(value: object) -> list[_File]:
    if not isinstance(value, list):
        raise ValueError(f"files is {_kind(value)}, expected an array")
    files = []
    for number, item in enumerate(value):
        what = f"files[{number}]"
        if not isinstance(item, dict):
            raise ValueError(f"{what} is {_kind(item)}, expected an object")
        _check_names(item, _FILE_FIELDS, what)
        size = _unsigned(item, "size", _U64_MAX)
        files.append(_File(_text(item, "path"), size, _text(item, "blake3")))
    return files


def _check_path(path: str) -> None:
    """Refuse a path that could lead out of ``data/``."""
    prefix = f"{DATA_NAME}/"
    if not path.startswith(prefix) or path == prefix or "\\" in path:
        raise ValueError(f"file path {_shown(path)} is not under {prefix}")
    if ".." in path.split("/"):
        raise ValueError(f"file path {_shown(path)} contains '..'")


def _cursor(text: str) -> Cursor:
    if len(text) % 2 or not _HEX_PAIRS.fullmatch(text):
        raise ValueError(f"cursor_hex is {_shown(text)}, expected pairs of hex digits")
    if len(text) // 2 > TOKEN_BYTES_MAX:
        raise ValueError(
            f"cursor_hex is {len(text) // 2} bytes, over the limit of {TOKEN_BYTES_MAX}"
        )
    return Cursor(bytes(int(text[at : at + 2], 16) for at in range(0, len(text), 2)))


def _kind(value: object) -> str:
    """What JSON calls a value, for one that may be too large or too deep to show."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "an object" if isinstance(value, dict) else "a number"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."
