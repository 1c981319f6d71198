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

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, NoReturn, ParamSpec

import typer

import holdfast
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
    source_kind,
)
from holdfast.formats.errors import (
    HoldfastError,
    InternalError,
    InvalidArgument,
    StoreNotFound,
)
from holdfast.handles.fold import absolute
from holdfast.workers.disk import OsDisk
from holdfast.workers.inspection import Report, examine
from holdfast.workers.places import Places
from holdfast.workers.platform import allow_descriptors
from holdfast.workers.repair import repair as repair_file
from holdfast.workers.standing import Standing

P = ParamSpec("P")

EXIT_BROKEN_PROMISE = 1
EXIT_NOT_OURS = int(Standing.NOT_OURS)
EXIT_ERROR = 4
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# Someone is watching and can press Ctrl-C; workers that hang are noticed without a deadline.
_LONG_S = 7 * 24 * 3600.0

app = typer.Typer(
    name="holdfast",
    help="An embedded, crash-proof storage engine: look at its files, and see it at work.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DirectoryArgument = Annotated[str, typer.Argument(metavar="DIR", help="An engine's directory.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a store in it.")]
PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A store's file or directory, or an artifact.")
]


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
        return _fail("UsageError", f"{describe()} Try 'holdfast --help'.", {}, "--json" in sys.argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _command(function: Callable[P, int]) -> Callable[P, int]:
    """A command that turns what goes wrong into one line and an exit code."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        as_json = bool(kwargs.get("json_"))
        try:
            code = function(*args, **kwargs)
            sys.stdout.flush()
        except HoldfastError as error:
            if isinstance(error, InternalError):  # a defect, for which one line is not enough
                traceback.print_exception(error)
            return _fail(type(error).__name__, str(error), error.wire_details(), as_json)
        except BrokenPipeError:
            _drop_output()
            return EXIT_BROKEN_PIPE
        except OSError as error:
            return _fail(type(error).__name__, str(error), {"path": error.filename}, as_json)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        return code

    return app.command(name=function.__name__.rstrip("_"))(guarded)


def _fail(kind: str, message: str, details: Mapping[str, object], as_json: bool) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(f"holdfast: {' '.join(message.split())}", file=sys.stderr)
    if as_json:
        error = {"type": kind, "message": message, "path": None, "offset": None, **details}
        with contextlib.suppress(OSError):
            print(json.dumps({"error": error}, default=str))
    try:
        sys.stdout.flush()
    except OSError:  # such as a full disk, which may be what failed in the first place
        _drop_output()
    return EXIT_ERROR


def _drop_output() -> None:
    """Have what is still buffered go nowhere, so that the interpreter's last flush is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it, exit."),
    ] = False,
) -> None:
    pass


# --- looking at files --------------------------------------------------------------------------


@_command
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


@_command
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


@_command
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


@_command
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


@_command
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


@_command
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
        kind = engine.stores().get(name)
        if kind == "warm":
            outcome = export_points(engine, name, absolute(destination), file_format, _LONG_S)
        else:
            if file_format is not None:
                raise InvalidArgument(f"--format does not apply: {name!r} is no warm store")
            outcome = export_fold(engine, places, name, absolute(destination), report, _LONG_S)
    print_result(outcome.fields, outcome.text, json_)
    return 0


@_command
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
    options = PointOptions(dimension, space, duplicates, damaged, other_dimensions, non_finite)
    kind = source_kind(path)
    with holdfast.open(absolute(directory)) as engine, progress_bar(f"import {name}", json_) as bar:
        if kind == "chronos":
            outcome = import_directory(engine, name, path, options, bar, _LONG_S)
        elif kind == "points":
            outcome = import_points(engine, name, path, options, _LONG_S)
        else:
            options.refuse_given(*options._fields, source=path, what="no file of points")
            outcome = import_fold(engine, name, path, _LONG_S)
    print_result(outcome.fields, outcome.text, json_)
    return 0


@_command
def compact(directory: DirectoryArgument, name: NameArgument, json_: JsonFlag = False) -> int:
    """Rewrite a store without what is dead; of an index, begin the log anew behind a snapshot."""
    places = _existing(directory)
    with (
        holdfast.open(places.directory) as engine,
        progress_bar(f"compact {name}", json_) as report,
    ):
        kind = engine.stores().get(name)
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


@_command
def demo(
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIRECTORY]",
            help="The files to follow; without it, the sources of Python's standard library.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the stores and say where.")] = False,
    json_: JsonFlag = False,
) -> int:
    """Follow real files into a store, then kill its processes under load and lose nothing."""
    from holdfast.demo import run

    report = run(directory, keep=keep, quiet=json_)
    if json_:
        print(json.dumps(report.fields()))
    else:
        report.show()
    return 0 if report.ok else EXIT_BROKEN_PROMISE


@_command
def load(
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="NAME|FILE.toml",
            help="agent-memory, config-edge, mixed, rag or telemetry, or a file of your own.",
        ),
    ] = "mixed",
    clients: Annotated[int, typer.Option("--clients", help="How many call at once.")] = 8,
    processes: Annotated[int, typer.Option("--processes", help="How many they run in.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Calls a second of all clients; else the profile's."),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Each call follows the one before, at no fixed rate.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="How long is measured; else 30.")
    ] = None,
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Seconds before that, which do not count.")
    ] = 2.0,
    stores: Annotated[
        str | None, typer.Option("--stores", metavar="KINDS", help="With commas; else all.")
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option("--durability", help="always, interval or never; else the profile's."),
    ] = None,
    kill_every: Annotated[
        float | None,
        typer.Option("--kill-every", metavar="SECONDS", help="Kill a worker that often."),
    ] = None,
    find_limit: Annotated[
        bool,
        typer.Option("--find-limit", help="Look for the highest rate that keeps the objective."),
    ] = False,
    objective_ms: Annotated[
        float, typer.Option("--objective-ms", help="For 99 of 100 calls, with --find-limit.")
    ] = 50.0,
    asynchronous: Annotated[
        bool, typer.Option("--asyncio", help="Clients are asyncio tasks, not threads.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same seed makes the same calls.")
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE.html", help="Write a page about it.")
    ] = None,
    json_: JsonFlag = False,
) -> int:
    """Find out what this machine holds: clients with a mix of work, on fresh stores, here.

    Latency counts from when a call was due, and every read is checked against what was written.
    Exit code 0 only with no error and no wrong read. Ctrl-C ends it with a report.
    """
    from holdfast.bench.load import command

    settings = command.Settings(
        profile, clients, processes, rate, closed, seconds, warm_up, stores, durability,
        kill_every, find_limit, objective_ms, asynchronous, seed,
        None if report is None else absolute(report),
    )  # fmt: skip
    return 0 if command.load_and_tell(settings, as_json=json_) else EXIT_BROKEN_PROMISE


@_command
def drill(
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIRECTORY]",
            help="An engine's directory, whose copy is drilled; without it, fresh stores.",
        ),
    ] = None,
    stores: Annotated[
        str | None, typer.Option("--stores", metavar="KINDS", help="With commas; else all.")
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="KINDS",
            help="Of crash, kill, damage, errors, processes, time, soak; else all.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="How long, all together; else 60.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Every short sequence, however long that takes.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed does the same.")] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE.html", help="Write a page about it.")
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option("--replay", metavar="SCENARIO", help="Only this, as a failure says it."),
    ] = None,
    json_: JsonFlag = False,
) -> int:
    """Break every promise on purpose, here and now: exit code 0 only if every one held.

    Power losses, killed processes, failing and full disks, damaged files, a jumping clock, and
    clients under load while all that goes on. Ctrl-C ends it with a report of what was covered.
    """
    from holdfast.bench.drill import command

    where = None if directory is None else os.path.realpath(absolute(directory))
    page = None if report is None else absolute(report)
    settings = command.Settings(where, stores, faults, seconds, exhaustive, seed, page)
    held = (
        command.drill_and_tell(settings, as_json=json_)
        if replay is None
        else command.replay_and_tell(replay, as_json=json_)
    )
    return 0 if held else EXIT_BROKEN_PROMISE
