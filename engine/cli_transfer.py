"""Stores to and from other files, for the command line: warm stores, and folds as artifacts."""

import contextlib
import os
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, cast

from msgspec import structs

from holdfast.call import ProgressCallback
from holdfast.engine import Engine
from holdfast.formats.artifact import MANIFEST_NAME
from holdfast.formats.chronos_names import MANIFEST_NAME as CHRONOS_MANIFEST_NAME
from holdfast.formats.errors import InvalidArgument, InvalidFormat, StoreNotFound, WrongKind
from holdfast.workers.disk import OsDisk
from holdfast.workers.messages import Kind
from holdfast.workers.places import Places, check_name
from holdfast.workers.warm_files import is_chronos

if TYPE_CHECKING:
    from holdfast.handles.warm import Warm
    from holdfast.workers.warm_messages import WarmImported

_FILES = (".parquet", ".arrow", ".feather", ".ipc")
_LINES_MAX = 20


class FileFormat(StrEnum):
    """What an export of a warm store consists of."""

    parquet = "parquet"
    arrow = "arrow"


class Duplicates(StrEnum):
    """Which of several points with the same key counts."""

    first = "first"
    last = "last"


class Damaged(StrEnum):
    """What to do about damage."""

    refuse = "refuse"
    salvage = "salvage"


class OtherDimensions(StrEnum):
    """What to do about points of other dimensions."""

    refuse = "refuse"
    skip = "skip"


class NonFinite(StrEnum):
    """What to do about values that are not finite."""

    refuse = "refuse"
    accept = "accept"


class PointOptions(NamedTuple):
    """How points are imported; None is the default of what they are imported from."""

    dimension: int | None = None
    space: int | None = None
    duplicates: Duplicates | None = None
    damaged: Damaged | None = None
    other_dimensions: OtherDimensions | None = None
    non_finite: NonFinite | None = None

    def refuse_given(self, *names: str, source: str, what: str) -> None:
        """Raise ``InvalidArgument`` if one of these was given."""
        for name in names:
            if getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise InvalidArgument(f"--{option} does not apply: {source!r} is {what}")


class Outcome(NamedTuple):
    """What a command prints, as JSON and as text."""

    fields: dict[str, object]
    text: str


def source_kind(source: str) -> str:
    """What is to be imported: an ``artifact`` of a fold, ``chronos``, or files of ``points``.

    What is nothing of these counts as an artifact, and is refused as one.
    """
    if not os.path.isdir(source):
        return "points" if source.endswith(_FILES) else "artifact"
    names = [name for name, _ in OsDisk().list(source)]
    if MANIFEST_NAME in names:
        return "artifact"
    if is_chronos(names) or CHRONOS_MANIFEST_NAME in names:
        return "chronos"
    if any(name.startswith("space=") or name.endswith(_FILES) for name in names):
        return "points"
    return "artifact"


def kind_in(engine: Engine, name: str) -> Kind:
    """Which kind of store a name belongs to; ``StoreNotFound`` if to none."""
    kind = engine.stores().get(check_name(name))
    if kind is None:
        raise StoreNotFound(f"there is no store {name!r} in {engine.directory!r}", store=name)
    return cast(Kind, kind)


def export_points(
    engine: Engine, name: str, destination: str, file_format: FileFormat | None, timeout: float
) -> Outcome:
    """Write a warm store as Parquet or Arrow files."""
    store = engine.warm(name, create=False)
    done = store.export(
        destination, format=(file_format or FileFormat.parquet).value, timeout=timeout
    )
    return Outcome(
        {"directory": done.directory, "points": done.points, "files": done.files},
        f"exported {done.points} points to {done.directory}",
    )


def import_points(
    engine: Engine, name: str, source: str, options: PointOptions, timeout: float
) -> Outcome:
    """Write the points of Parquet or Arrow files to a warm store, which is made if need be."""
    options.refuse_given(
        "duplicates", "damaged", "other_dimensions", source=source, what="no directory of chronos"
    )
    dimension = options.dimension
    if dimension is None and name not in engine.stores():
        dimension = _dimension_of(source)
    with _imported_into(engine, name, dimension) as store:
        points = store.import_file(
            source,
            space=options.space,
            non_finite=(options.non_finite or NonFinite.refuse).value,
            timeout=timeout,
        )
    return Outcome({"name": name, "points": points}, f"imported {points} points as {name!r}")


def _dimension_of(source: str) -> int:
    """The dimension that a file's schema announces; ``InvalidArgument`` if it does not."""
    import pyarrow as pa

    from holdfast.formats.warm_chunk import VECTOR
    from holdfast.handles.warm_transfer import schema_of

    schema = schema_of(source)
    if VECTOR in schema.names and pa.types.is_fixed_size_list(schema.field(VECTOR).type):
        return int(schema.field(VECTOR).type.list_size)
    raise InvalidArgument(
        f"a new store needs its dimension, which the columns of {source!r} do not tell: give "
        "--dimension",
        path=source,
    )


def import_directory(
    engine: Engine,
    name: str,
    source: str,
    options: PointOptions,
    progress: ProgressCallback,
    timeout: float,
) -> Outcome:
    """Write the points of a directory of chronos-vector to a warm store, made if need be."""
    options.refuse_given("space", source=source, what="a directory of chronos, which has spaces")
    dimension = options.dimension
    if dimension is None and name not in engine.stores():
        dimension = _only_dimension(source)
    with _imported_into(engine, name, dimension) as store:
        done = store.import_chronos(
            source,
            duplicates=(options.duplicates or Duplicates.last).value,
            damaged=(options.damaged or Damaged.refuse).value,
            other_dimensions=(options.other_dimensions or OtherDimensions.refuse).value,
            non_finite=(options.non_finite or NonFinite.refuse).value,
            progress=progress,
            timeout=timeout,
        )
    return Outcome(_fields(name, done), _text(name, done))


@contextlib.contextmanager
def _imported_into(engine: Engine, name: str, dimension: int | None) -> "Iterator[Warm]":
    """A warm store to import into; one that was made for it goes again if nothing comes in."""
    is_new = name not in engine.stores()
    store = engine.warm(name, dimension=dimension)
    try:
        yield store
    except BaseException:
        if is_new and not store.count():
            engine.drop(name)
        raise


def _only_dimension(source: str) -> int:
    from holdfast.workers.chronos import survey

    report = survey(OsDisk(), source, lambda: None)
    dimensions = report.dimensions
    if len(dimensions) == 1:
        return next(iter(dimensions))
    if not dimensions:
        raise InvalidFormat(
            f"{source!r} has no point, and so no dimension: give --dimension", path=source
        )
    raise InvalidArgument(
        f"{source!r} has points of several dimensions, {dimensions}: say which with --dimension, "
        "and --other-dimensions skip",
        path=source,
    )


def _fields(name: str, done: "WarmImported") -> dict[str, object]:
    counts = {field: getattr(done, field) for field in ("points", "replaced", "duplicates")}
    report = structs.asdict(done.report)
    report["files"] = [
        {**structs.asdict(file), "flaws": [structs.asdict(flaw) for flaw in file.flaws]}
        for file in done.report.files
    ]
    return {"name": name, **counts, "skipped": done.skipped, "report": report}


def _text(name: str, done: "WarmImported") -> str:
    """A sentence, and what was remarkable, a line each."""
    report = done.report
    lines = [f"imported {done.points} points of {len(report.files)} files as {name!r}"]
    if done.replaced:
        lines.append(f"  {done.replaced} replaced points that were there")
    if done.duplicates:
        lines.append(f"  {done.duplicates} more had the same key as one of these")
    if done.skipped:
        lines.append(f"  {done.skipped} points of other dimensions were skipped")
    found = [
        f"  {file.path}: offset {flaw.offset}: {flaw.reason}"
        for file in report.files
        for flaw in file.flaws
    ]
    found += [f"  {note}" for note in report.notes]
    found += [f"  {ignored}: no chunk file, and ignored" for ignored in report.ignored]
    more = len(found) - _LINES_MAX + report.notes_left_out + report.ignored_left_out
    lines += found[:_LINES_MAX]
    if more > 0:
        lines.append(f"  and {more} more; --json has all of them")
    return "\n".join(lines)


def export_fold(
    engine: Engine,
    places: Places,
    name: str,
    destination: str,
    report: ProgressCallback,
    timeout: float,
) -> Outcome:
    """Write a fold as an artifact; ``WrongKind`` for a store that is none."""
    kind = kind_in(engine, name)
    if kind in ("vectors", "index", "registry"):
        path = places.store(name, kind)
        raise WrongKind(
            f"store {name!r} is of kind {kind!r}, and only folds and warm stores are exported; its "
            f"file {path!r} can be copied as it is while nobody writes",
            store=name,
        )
    fold = engine.fold(name, create=False)
    exported = fold.export(destination, progress=report, timeout=timeout)
    files = [{"path": f.path, "size": f.size, "blake3": f.blake3} for f in exported.files]
    fields: dict[str, object] = {
        "directory": exported.directory,
        "entries": exported.entries,
        "cursor": exported.cursor.token.hex(),
        "files": files,
    }
    return Outcome(fields, f"exported {exported.entries} entries to {exported.directory}")


def import_fold(engine: Engine, name: str, artifact: str, timeout: float) -> Outcome:
    """Make a fold from an artifact."""
    status = engine.import_fold(name, artifact, timeout=timeout).status()
    fields: dict[str, object] = {
        "name": name,
        "path": status.path,
        "entries": status.entries,
        "cursor": status.cursor.token.hex(),
    }
    return Outcome(fields, f"imported {status.entries} entries as {name!r}")
