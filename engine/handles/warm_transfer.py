"""Warm stores to and from plain Parquet and Arrow files.

An export is a directory with one folder a space, named the way Hive names partitions, so that any
reader of datasets finds the column ``space`` again::

    DEST/space=7/part-00000.parquet     entity, timestamp, vector, metadata; in order of key

It is a stage beside its place, is synced, and renamed: it is there as a whole or not at all.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import pyarrow as pa

from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    from_os_error,
    typed_errors,
)
from holdfast.formats.points import METADATA
from holdfast.formats.tables import ARROW_REFUSALS
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR
from holdfast.handles.checks import check_choice
from holdfast.handles.warm_input import as_space
from holdfast.workers.disk import File, OsDisk
from holdfast.workers.stages import begin, give_up, publish, require_free, stage_beside

if TYPE_CHECKING:
    import pyarrow.dataset
    import pyarrow.parquet

FileFormat = Literal["parquet", "arrow"]
FORMATS: tuple[FileFormat, ...] = ("parquet", "arrow")

_PART_ROWS = 1 << 20
_BATCH_ROWS = 1 << 16
# In the stage: what locks it while it is in use, and what is to be the directory.
_LOCK, _CONTENT = "lock", "content"
_COLUMNS = (ENTITY, TIMESTAMP, VECTOR, METADATA)


class WarmExported(NamedTuple):
    """An export: where it is, its points, and its files relative to that."""

    directory: str
    points: int
    files: list[str]


class _Sink:
    """A file that an Arrow writer writes to."""

    closed = False

    def __init__(self, file: File) -> None:
        self._file: File | None = file
        self._offset = 0

    def write(self, data: "bytes | pa.Buffer") -> int:
        piece = memoryview(data).cast("B")
        if self._file is not None:
            self._file.write_at(self._offset, piece)
        self._offset += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._offset

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def let_go(self) -> None:
        """Write nothing more, which an Arrow writer that is dropped would."""
        self._file = None


class PartitionWriter:
    """Writes tables, which come in order of space, to the folders of an export."""

    def __init__(self, directory: str, file_format: str) -> None:
        check_choice("format", file_format, FORMATS)
        self._directory = directory
        self._format = file_format
        self._disk = OsDisk()
        self._files: list[str] = []
        self._points = 0
        self._space: int | None = None
        self._part = 0
        self._rows = 0
        self._file: File | None = None
        self._sink: _Sink | None = None
        self._writer: pyarrow.parquet.ParquetWriter | pa.ipc.RecordBatchFileWriter | None = None
        with typed_errors("export to", directory):
            require_free(self._disk, directory)
            self._stage = stage_beside(directory)
            self._lock = begin(self._disk, self._stage, os.path.join(self._stage, _LOCK))
            self._work = os.path.join(self._stage, _CONTENT)
            try:
                self._disk.make_directory(self._work)
            except BaseException:
                self.discard()
                raise

    def write(self, table: pa.Table) -> None:
        """Add rows, which are behind those that were added before in order of space."""
        with typed_errors("export to", self._directory):
            for space, rows in _by_space(table):
                for start in range(0, rows.num_rows, _PART_ROWS):
                    self._add(space, rows.slice(start, _PART_ROWS))

    def _add(self, space: int, rows: pa.Table) -> None:
        if space != self._space:
            self._end_part()
            self._space, self._part = space, 0
            self._disk.make_directory(os.path.join(self._work, f"{SPACE}={space}"))
        elif self._rows + rows.num_rows > _PART_ROWS:
            self._end_part()
        if self._writer is None:
            self._begin_part(rows.schema)
        assert self._writer is not None
        self._writer.write_table(rows)
        self._rows += rows.num_rows
        self._points += rows.num_rows

    def _begin_part(self, schema: pa.Schema) -> None:
        name = f"{SPACE}={self._space}/part-{self._part:05d}.{self._format}"
        self._files.append(name)
        self._part += 1
        self._file = self._disk.create(os.path.join(self._work, name))
        self._sink = _Sink(self._file)
        sink = pa.PythonFile(self._sink, "w")
        if self._format == "arrow":
            self._writer = pa.ipc.new_file(sink, schema)
        else:
            from pyarrow import parquet

            self._writer = parquet.ParquetWriter(sink, schema, compression="zstd")

    def _end_part(self) -> None:
        if self._writer is None:
            return
        assert self._file is not None
        self._writer.close()
        self._file.sync()
        self._file.close()
        self._writer, self._file, self._rows = None, None, 0

    def finish(self) -> WarmExported:
        """Put the export in its place."""
        disk = self._disk
        with typed_errors("export to", self._directory):
            self._end_part()
            for name, kind in disk.list(self._work):
                if kind == "directory":
                    disk.sync_directory(os.path.join(self._work, name))
            disk.sync_directory(self._work)
            publish(disk, self._lock, self._work, self._directory)
        give_up(disk, self._stage, self._lock)  # of which only the lock is left
        return WarmExported(self._directory, self._points, self._files)

    def discard(self) -> None:
        """Remove what was written."""
        if self._sink is not None:
            self._sink.let_go()
        if self._file is not None:
            self._file.close()
        give_up(self._disk, self._stage, self._lock)


def _by_space(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each space, without that column; spaces come in order."""
    spaces = table.column(SPACE).to_numpy()
    rest = table.select(_COLUMNS)
    start = 0
    while start < len(spaces):
        space = spaces[start]
        stop = start + int(spaces[start:].searchsorted(space, "right"))
        yield int(space), rest.slice(start, stop - start)
        start = stop


def batches_of(
    source: str, space: object, file_format: str | None
) -> Iterator[tuple[int, pa.Table]]:
    """The points of a Parquet or Arrow file, or of a directory of such, each with their space.

    ``space`` is that of all points; None: the files say so in a column or by their folders.
    """
    given = None if space is None else as_space(space)
    if file_format is None:
        file_format = _format_of(source)
    else:
        check_choice("format", file_format, FORMATS)
    with _refusals(source, file_format):
        found = _dataset(source, file_format)
        names = set(found.schema.names)
        if given is None and SPACE not in names:
            raise InvalidArgument(f"{source!r} has no column {SPACE!r}, and no space was given")
        columns = [name for name in found.schema.names if given is None or name != SPACE]
        for batch in found.to_batches(columns=columns, batch_size=_BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            if table.num_rows:
                yield from _split(table, given)


def schema_of(source: str) -> pa.Schema:
    """The columns of what ``batches_of`` reads, of whatever types."""
    file_format = _format_of(source)
    with _refusals(source, file_format):
        return _dataset(source, file_format).schema


def _dataset(source: str, file_format: str) -> "pyarrow.dataset.Dataset":
    from pyarrow import dataset

    if not os.path.isdir(source):
        return dataset.dataset(source, format=file_format)
    partitions = dataset.partitioning(pa.schema([(SPACE, pa.uint32())]), flavor="hive")
    return dataset.dataset(source, format=file_format, partitioning=partitions)


@contextlib.contextmanager
def _refusals(source: str, file_format: str) -> Iterator[None]:
    """Turn what pyarrow raises for a file into a typed error."""
    try:
        yield
    except FileNotFoundError as error:  # whose number pyarrow does not tell
        absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise from_os_error(absent, "read", source) from error
    except ARROW_REFUSALS as error:
        if isinstance(error, HoldfastError):
            raise
        raise InvalidArgument(f"{source!r} cannot be read as {file_format}: {error}") from error


def _format_of(source: str) -> FileFormat:
    if os.path.isdir(source):
        return _format_in(source)
    return "arrow" if source.endswith((".arrow", ".feather", ".ipc")) else "parquet"


def _format_in(directory: str) -> FileFormat:
    """What the files below a directory are, by their names."""
    disk = OsDisk()
    for name, kind in disk.list(directory):
        inner = os.path.join(directory, name)
        if kind == "directory":
            return _format_in(inner)
        if name.endswith((".arrow", ".feather", ".ipc")):
            return "arrow"
    return "parquet"


def _split(table: pa.Table, space: int | None) -> Iterator[tuple[int, pa.Table]]:
    if space is not None:
        yield space, table
        return
    import pyarrow.compute as pc

    column = table.column(SPACE)
    if column.null_count:
        raise InvalidArgument(f"column {SPACE!r} has a null")
    rest = table.drop_columns([SPACE])
    for value in column.unique().to_pylist():
        yield as_space(value), rest.filter(pc.equal(column, pa.scalar(value, column.type)))
