"""Every parser of formats/ as a function of bytes, and the errors that each may raise.

A parser goes as far as a store does with what it has parsed: arrays are summed, records decoded,
iterators exhausted. The first bytes of the input stand for what a store knows from elsewhere.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from holdfast.formats import (
    ann_cache,
    artifact,
    bincode,
    chronos_chunk,
    chronos_names,
    dead_rows,
    expression,
    fold_index,
    fold_log,
    frame,
    iqdb_closing,
    iqdb_core,
    iqdb_snapshot,
    iqdb_trial,
    iqdb_values,
    iqdb_wal,
    ledger,
    model_artifact,
    points,
    postcard,
    tables,
    warm_chunk,
    warm_log,
    warm_manifest,
    zone_map,
    zsm,
)
from holdfast.formats.errors import HoldfastError
from holdfast.formats.rvf import (
    cow,
    images,
    journal,
    lock_file,
    manifest,
    meta,
    record,
    scan,
    segment,
    vec,
    witness,
)

Parse = Callable[[bytes], object]


class Parser(NamedTuple):
    """How one module's bytes are parsed."""

    parse: Parse
    errors: tuple[type[Exception], ...] = (HoldfastError,)


def refusal(parser: Parser, data: bytes) -> Exception | None:
    """Parse bytes: the error with which they are refused, None if they are not.

    Any other exception is a defect of the parser, and passes.
    """
    try:
        parser.parse(data)
    except parser.errors as error:
        return error
    return None


def _artifact(data: bytes) -> None:
    artifact.decode_manifest(data)


def _chronos_chunk(data: bytes) -> None:
    view = memoryview(data)
    for block in chronos_chunk.blocks(view):
        for dimension in np.unique(block.dimensions).tolist():
            here = block.vectors_at[block.dimensions == dimension]
            chronos_chunk.vectors_of(view, here, dimension).sum()


def _chronos_names(data: bytes) -> None:
    text = data[:64].decode(errors="replace")
    chronos_names.parse_entity(text)
    chronos_names.parse_chunk(text)
    zones = chronos_names.parse_manifest(data)
    chronos_names.listed_points(zones)
    for line in chronos_names.differences(zones, []):
        line.encode()


def _dead_rows(data: bytes) -> None:
    owner = dead_rows.owner_of(data)
    if owner is not None:
        # A store knows the number of rows from the chunk's zone map, which bounds it.
        dead_rows.decode(data, owner.store_id, owner.chunk, min(owner.rows, 1 << 20)).sum()


def _expression(data: bytes) -> None:
    found, _ = expression.take_apart(data)
    expression.text_of(found)


def _fold_index(data: bytes) -> None:
    index = fold_index.decode(data)
    if index is not None:
        log = memoryview(data)
        fold_index.fingerprint(log, index.spans, index.last_record, min(index.covered, len(log)))


def _fold_log(data: bytes) -> None:
    if fold_log.header_problem(data) is not None or len(data) < fold_log.HEADER_BYTES:
        return
    table: dict[bytes, int] = {}
    view = memoryview(data)
    found = fold_log.scan(view, fold_log.HEADER_BYTES, table)
    assert found.end <= len(data)
    spans = [span for span in table.values() if span != fold_log.DELETED]
    assert len(fold_log.decode_puts(view, spans)) == len(spans)


def _iqdb_core(data: bytes) -> None:
    _index_payload(memoryview(data))


def _index_payload(payload: memoryview) -> None:
    header, start = iqdb_core.decode_header(payload)
    for batch in iqdb_core.decode_rows(payload, start, header):
        batch.vectors.sum()


def _iqdb_snapshot(data: bytes) -> None:
    view = memoryview(data)
    header = iqdb_snapshot.decode_header(
        view[: iqdb_snapshot.HEADER_BYTES_MAX + iqdb_snapshot.PREAMBLE_BYTES]
    )
    iqdb_snapshot.check_region(view, header)
    payload, _ = iqdb_snapshot.split_stamp(iqdb_snapshot.open_payload(view, header))
    if header.index_type == iqdb_core.INDEX_TYPE:
        _index_payload(payload)


def _iqdb_values(data: bytes) -> None:
    values, stop = iqdb_values.decode_metadata(data)
    again, same_stop = iqdb_values.canonical_metadata(data)
    assert stop == same_stop
    assert iqdb_values.canonical_metadata(again) == (again, len(again))
    assert len(values) <= stop


def _iqdb_wal(data: bytes) -> None:
    if not data:
        return
    dimension, log = 1 + data[0] % 8, data[1:]
    if iqdb_wal.header_problem(log[: iqdb_wal.HEADER_BYTES]) is not None:
        return
    view = memoryview(log)
    for found in iqdb_wal.read_frames(view, iqdb_wal.HEADER_BYTES, dimension):
        if isinstance(found, iqdb_wal.Damage):
            iqdb_wal.judge(view, found, dimension)


def _points(data: bytes) -> None:
    column = points.metadata_from_ipc(memoryview(data)[1:], data[0] if data else 0)
    if column is not None:
        points.rows_of_metadata(column, len(column))


def _warm_chunk(data: bytes) -> None:
    if len(data) < 8:
        return
    # In a buffer of its own, aligned as a mapped file is.
    warm_chunk.decode(pa.py_buffer(bytes(data[8:])), 1 + data[0] % 8, data[1]).vectors.sum()


def _warm_log(data: bytes) -> None:
    header = warm_log.decode_header(data)
    if isinstance(header, str):
        return
    view = memoryview(data)
    found = warm_log.scan(view, header)
    behind, _ = warm_log.intact_records(view, header.dimension, lambda: None)
    for one in [*found.records, *behind]:
        if one.kind is warm_log.RecordKind.WRITE:
            warm_log.write_of(one, header.dimension).vectors.sum()
        elif one.kind is warm_log.RecordKind.DELETE:
            warm_log.keys_of(one)
        else:
            warm_log.range_of(one)


def _warm_manifest(data: bytes) -> None:
    warm_manifest.is_of_another_version(data)
    found = warm_manifest.decode(data)
    assert warm_manifest.decode(warm_manifest.encode(found)) == found


def _zone_map(data: bytes) -> None:
    found = zone_map.decode(data)
    assert found.rows == found.series.rows


def _bincode(data: bytes) -> None:
    reader = bincode.Reader(memoryview(data))
    while reader.left:
        kind = reader.raw(1, "a kind")[0] % 5
        if kind == 0:
            reader.text("a text")
        elif kind == 1:
            for _ in range(reader.count(4, "numbers")):
                reader.u32("a number")
        elif kind == 2:
            reader.optional(reader.text, "an option")
        else:
            reader.u64("a number") if kind == 3 else reader.f32("a float")


def _model_artifact(data: bytes) -> None:
    found = model_artifact.decode(data)
    again = model_artifact.encode(found)
    rates = [stats.null_rate for stats in found.fingerprint.field_stats]
    single = [found.log_prior_odds, found.upper_threshold, found.lower_threshold, *rates]
    if any(map(math.isnan, single)):  # only their signalling bits may have changed
        assert len(again) == len(data)
        assert model_artifact.encode(model_artifact.decode(again)) == again
    else:
        assert again == data


def _zsm(data: bytes) -> None:
    if zsm.header_problem(data) is not None:
        return
    view = memoryview(data)
    content = zsm.read(view, lambda: None)
    for entry in content.by_key().values():
        model_artifact.decode(entry.artifact(view))


def _cow(data: bytes) -> None:
    if data[:1] == b"m":
        cow.decode_membership(data[1:]).ids().sum()
    else:
        cow.decode_cow_map(data[1:])


def _images(data: bytes) -> None:
    decode: list[Parse] = [
        images.decode_kernel, images.decode_ebpf, images.decode_wasm, images.decode_dashboard,
    ]  # fmt: skip
    if data:
        decode[data[0] % len(decode)](data[1:])


def _manifest(data: bytes) -> None:
    manifest.decode_directory(data)
    manifest.peek_epoch(data)
    manifest.decode_manifest(data)


def _record(data: bytes) -> None:
    record.decode_store(data)
    record.decode_hidden(data)


def _scan(data: bytes) -> None:
    view = memoryview(data)
    for offset, header in scan.walk(view):
        assert offset + segment.HEADER_BYTES + header.payload_bytes <= len(data)
    scan.find_intact(view)
    scan.find_manifest(view)


def _segment(data: bytes) -> None:
    header = segment.decode_header(data)
    if header is not None:
        segment.is_intact(header, memoryview(data)[segment.HEADER_BYTES :])
        segment.type_name(header.type)


def _vec(data: bytes) -> None:
    ids, vectors = vec.view_rows(data)
    assert len(ids) == len(vectors)
    vectors.sum()


def _witness(data: bytes) -> None:
    witness.decode_witness(data)
    witness.entry_hash(data)


_FLAWS = (HoldfastError, iqdb_values.IndexFlaw)
PARSERS: dict[str, Parser] = {
    "ann_cache": Parser(ann_cache.decode),
    "artifact": Parser(_artifact),
    "bincode": Parser(_bincode, (bincode.Malformed,)),
    "chronos_chunk": Parser(_chronos_chunk),
    "chronos_names": Parser(_chronos_names),
    "dead_rows": Parser(_dead_rows),
    "expression": Parser(_expression),
    "fold_index": Parser(_fold_index),
    "fold_log": Parser(_fold_log),
    "frame": Parser(lambda data: frame.decode_header(data.ljust(32, b"\0"))),
    "iqdb_closing": Parser(iqdb_closing.decode),
    "iqdb_core": Parser(_iqdb_core, _FLAWS),
    "iqdb_snapshot": Parser(_iqdb_snapshot, _FLAWS),
    "iqdb_trial": Parser(iqdb_trial.decode),
    "iqdb_values": Parser(_iqdb_values, _FLAWS),
    "iqdb_wal": Parser(_iqdb_wal, _FLAWS),
    "ledger": Parser(ledger.decode),
    "model_artifact": Parser(_model_artifact, (bincode.Malformed,)),
    "points": Parser(_points),
    "postcard": Parser(postcard.decode_point, (postcard.UndecodablePoint,)),
    "tables": Parser(tables.ipc_to_table),
    "warm_chunk": Parser(_warm_chunk),
    "warm_log": Parser(_warm_log),
    "warm_manifest": Parser(_warm_manifest),
    "zone_map": Parser(_zone_map),
    "zsm": Parser(_zsm),
    "rvf.cow": Parser(_cow),
    "rvf.images": Parser(_images),
    "rvf.journal": Parser(journal.decode_journal),
    "rvf.lock_file": Parser(lock_file.decode_lock),
    "rvf.manifest": Parser(_manifest),
    "rvf.meta": Parser(meta.decode_meta),
    "rvf.record": Parser(_record),
    "rvf.scan": Parser(_scan),
    "rvf.segment": Parser(_segment),
    "rvf.vec": Parser(_vec),
    "rvf.witness": Parser(_witness),
}
"""By the module's name below ``holdfast.formats``."""

OTHERS: dict[str, str] = {
    "checksum": "computes",
    "errors": "no bytes",
    "fingerprint": "values, which model_artifact reads",
    "flatbuffer": "the reader under expression, tables and warm_chunk, which bound it",
    "fold_canonical": "writes; what it reads was checked by fold_log",
    "fold_spans": "numbers; what it reads are spans of fold_log",
    "limits": "numbers",
    "memory": "no bytes",
    "values": "values that callers make",
    "warm_terms": "words",
    "rvf.addrot": "a hash",
    "rvf.terms": "words",
}
"""The modules that parse nothing of their own, and why."""
