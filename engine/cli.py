"""The command line: ``holdfast``, also ``python -m holdfast``.

``inspect``, ``verify`` and ``query`` read files without an engine and change nothing; the first two
do so whatever state a store is in. ``repair`` needs no engine either, and writes what is intact of
a store to a new one. ``stat`` reads files as well, unless an engine is running in the directory:
then it joins that one and leaves again. The others open the directory as any program would.

Exit codes::

      0  done; of ``verify``: clean
      1  ``verify``: torn, which opening repairs; ``demo``, ``drill``, ``load``: a promise broken
      2  ``verify``: damaged, and either opening refuses it, or not all that it holds can be read (a
         chunk), or what it holds besides entries and rows is not whole (a superseded segment)
      3  ``verify`` and ``inspect``: not a store of ours, or of a version this release does not read
      4  an error of use or of the environment; one line on stderr says which
    130  interrupted by Ctrl-C
    141  whoever read the output stopped doing so

With ``--json``, standard output is exactly one JSON object, also after an error.
"""

import json
import os
import sys
from typing import Annotated, NoReturn

import typer

import holdfast
import holdfast.cli_trials  # its commands
from holdfast.cli_base import (
    EXIT_INTERRUPTED,
    EXIT_NOT_OURS,
    DirectoryArgument,
    JsonFlag,
    NameArgument,
    PathArgument,
    app,
    command,
    fail,
)
from holdfast.cli_output import (
    print_hits,
    print_repaired,
    print_report,
    print_report_json,
    print_result,
    print_verdict,
    progress_bar,
)
from holdfast.cli_transfer import (
    Damaged,
    Duplicates,
    FileFormat,
    NonFinite,
    OtherDimensions,
    PointOptions,
    export_fold,
    export_points,
    import_directory,
    import_fold,
    import_points,
    kind_in,
    source_kind,
)
from holdfast.formats.errors import (
    InvalidArgument,
    StoreNotFound,
    WrongKind,
)
from holdfast.handles.fold import absolute
from holdfast.workers.disk import OsDisk
from holdfast.workers.inspection import Report, examine
from holdfast.workers.places import Places
from holdfast.workers.platform import allow_descriptors
from holdfast.workers.repair import repair as repair_file
from holdfast.workers.standing import Standing

# Someone is watching and can press Ctrl-C; workers that hang are noticed without a deadline.
_LONG_S = 7 * 24 * 3600.0


def main() -> NoReturn:
    """Run the command line and exit."""
    allow_descriptors()  # a directory may have many files
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except Exception as error:
        # Of two releases of typer, the newer has no public name for a mistake in the arguments.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        return fail("UsageError", f"{describe()} Try 'holdfast --help'.", {}, "--json" in sys.argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


# --- looking at files --------------------------------------------------------------------------


@command
def inspect(
    path: PathArgument,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print the entries and points by key, the rows by id.")
    ] = False,
    wal: Annotated[
        bool, typer.Option("--wal", help="Of an index, the rows with its log applied.")
    ] = False,
    json_: JsonFlag = False,
) -> int:
    """Show what a store or artifact holds, damaged or not; never writes."""
    report = _examine(path)
    if wal:
        report = _with_log(report)
    if json_:
        print_report_json(report, rows)
    else:
        print_report(path, report, rows)
    return EXIT_NOT_OURS if report.standing is Standing.NOT_OURS else 0


@command
def verify(path: PathArgument, json_: JsonFlag = False) -> int:
    """Check a store or artifact: exit code 0 clean, 1 torn, 2 damaged, 3 not ours; never writes."""
    report = _examine(path)
    if json_:
        print(json.dumps({"path": path, **report.fields()}))
    else:
        print_verdict(path, report)
    return int(report.standing)


def _examine(path: str) -> Report:
    return examine(OsDisk(), _real(path))


def _with_log(report: Report) -> Report:
    """The report on an index whose rows are those with its log applied."""
    from holdfast.workers.index_inspection import IndexReport

    if not isinstance(report, IndexReport):
        raise InvalidArgument(f"--wal is for indexes; {report.path!r} is none", path=report.path)
    return report.applied()


def _real(path: str) -> str:
    """The path without symbolic links: what belongs to a file lies beside the real one."""
    return os.path.realpath(absolute(path))


@command
def repair(
    path: PathArgument,
    output: Annotated[
        str | None, typer.Option("--output", metavar="NEW", help="Where to; else PATH.repaired.")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Replace PATH, which is kept as PATH.damaged."),
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Also what no commit lists, and older models.")
    ] = False,
    json_: JsonFlag = False,
) -> int:
    """Write what is intact of a store to a new one, and say what is lost.

    Of a vector store every intact row, its metadata, images and other segments; of a warm store
    every point whose bytes are intact; of a fold the entries and the cursor from before the damage;
    of a registry every intact model. What is only torn is repaired by opening it.
    """
    if output is not None and in_place:
        raise InvalidArgument("--output and --in-place exclude each other")
    where = None if output is None else absolute(output)
    done = repair_file(OsDisk(), _real(path), where, in_place=in_place, salvage=salvage)
    if json_:
        print(json.dumps(done.fields()))
    else:
        print_repaired(done)
    return 0


@command
def query(
    path: PathArgument,
    vector: Annotated[
        str, typer.Option("--vector", metavar="FILE", help="One or more vectors, in .npy format.")
    ],
    k: Annotated[int, typer.Option("-k", "--k", help="How many of the nearest rows.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Without the index.")] = False,
    json_: JsonFlag = False,
) -> int:
    """Find the nearest rows in a vector store's file, without an engine; never writes."""
    from holdfast.cli_query import search_file

    results = search_file(_real(path), absolute(vector), k, exact=exact)
    if json_:
        print(json.dumps({"results": results}))
    else:
        print_hits(results)
    return 0


# --- an engine's directory ---------------------------------------------------------------------


@command
def stat(directory: DirectoryArgument, json_: JsonFlag = False) -> int:
    """Show the stores of a directory and the processes that serve it."""
    from holdfast.overview import overview, show_overview

    found = overview(_existing(directory))
    if json_:
        print(json.dumps(found))
    else:
        show_overview(found)
    return 0


def _existing(directory: str) -> Places:
    """The places of a directory that has to be there; only ``holdfast.open`` makes one."""
    path = absolute(directory)
    if not os.path.isdir(path):
        raise StoreNotFound(f"{path!r} is not a directory", path=path)
    return Places(path)


@command
def export(
    directory: DirectoryArgument,
    name: NameArgument,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="Where to: absent, or an empty directory.")
    ],
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", help="Of a warm store's files; parquet by default."),
    ] = None,
    json_: JsonFlag = False,
) -> int:
    """Write a fold as an artifact, complete and checkable, or a warm store as Parquet or Arrow."""
    places = _existing(directory)
    with holdfast.open(places.directory) as engine, progress_bar(f"export {name}", json_) as report:
        kind = kind_in(engine, name)
        if kind == "warm":
            outcome = export_points(engine, name, absolute(destination), file_format, _LONG_S)
        else:
            if file_format is not None:
                raise InvalidArgument(f"--format does not apply: {name!r} is no warm store")
            outcome = export_fold(engine, places, name, absolute(destination), report, _LONG_S)
    print_result(outcome.fields, outcome.text, json_)
    return 0


@command
def import_(
    directory: DirectoryArgument,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the store to make, or to add points to.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An artifact that export wrote; Parquet or Arrow files of points; or a directory "
            "of chronos-vector.",
        ),
    ],
    dimension: Annotated[
        int | None, typer.Option("--dimension", help="Of a new warm store; else as in SOURCE.")
    ] = None,
    space: Annotated[
        int | None, typer.Option("--space", help="Of points in files without that column.")
    ] = None,
    duplicates: Annotated[
        Duplicates | None,
        typer.Option("--duplicates", help="Which of several points of a key in a chronos counts."),
    ] = None,
    damaged: Annotated[
        Damaged | None,
        typer.Option("--damaged", help="Refuse a damaged chronos, or take what is intact of it."),
    ] = None,
    other_dimensions: Annotated[
        OtherDimensions | None,
        typer.Option("--other-dimensions", help="Refuse a chronos that has points of others."),
    ] = None,
    non_finite: Annotated[
        NonFinite | None,
        typer.Option("--non-finite", help="Refuse or accept points with NaN or infinities."),
    ] = None,
    json_: JsonFlag = False,
) -> int:
    """Make a fold from an artifact, after checking all of it; or write points to a warm store."""
    path = absolute(source)
    places = _existing(directory)
    options = PointOptions(dimension, space, duplicates, damaged, other_dimensions, non_finite)
    kind = source_kind(path)
    with holdfast.open(places.directory) as engine, progress_bar(f"import {name}", json_) as bar:
        if kind == "chronos":
            outcome = import_directory(engine, name, path, options, bar, _LONG_S)
        elif kind == "points":
            outcome = import_points(engine, name, path, options, _LONG_S)
        else:
            options.refuse_given(*options._fields, source=path, what="no file of points")
            outcome = import_fold(engine, name, path, _LONG_S)
    print_result(outcome.fields, outcome.text, json_)
    return 0


@command
def compact(directory: DirectoryArgument, name: NameArgument, json_: JsonFlag = False) -> int:
    """Rewrite a store without what is dead; of an index, begin the log anew behind a snapshot."""
    places = _existing(directory)
    with (
        holdfast.open(places.directory) as engine,
        progress_bar(f"compact {name}", json_) as report,
    ):
        kind = kind_in(engine, name)
        if kind == "registry":
            raise WrongKind(
                f"store {name!r} is a registry: each write makes its file anew, so that there is "
                "nothing to compact",
                store=name,
            )
        if kind == "index":
            done = engine.index(name, create=False).checkpoint(progress=report, timeout=_LONG_S)
        elif kind == "vectors":
            done = engine.vectors(name, create=False).compact(progress=report, timeout=_LONG_S)
        elif kind == "warm":
            done = engine.warm(name, create=False).compact(progress=report, timeout=_LONG_S)
        else:
            done = engine.fold(name, create=False).compact(progress=report, timeout=_LONG_S)
    print_result(
        {"name": name, "bytes_before": done.bytes_before, "bytes_after": done.bytes_after},
        f"compacted {name!r}: {done.bytes_before} bytes before, {done.bytes_after} after",
        json_,
    )
    return 0
