"""The commands that try an engine out: ``demo``, ``load``, ``drill``."""

import json
import os
from typing import Annotated

import typer

from holdfast.cli_base import EXIT_BROKEN_PROMISE, JsonFlag, command
from holdfast.formats.errors import InvalidArgument
from holdfast.handles.fold import absolute


@command
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


@command
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
        float | None,
        typer.Option(
            "--seconds", help="How long is measured; else 30, with --find-limit 10 for each rate."
        ),
    ] = None,
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Seconds before that, which do not count.")
    ] = 2.0,
    stores: Annotated[
        str | None,
        typer.Option("--stores", metavar="KINDS", help="Of the profile's, with commas; else all."),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option("--durability", help="always, interval or never; else the profile's."),
    ] = None,
    kill_every: Annotated[
        float | None,
        typer.Option("--kill-every", metavar="SECONDS", help="Kill a store's worker that often."),
    ] = None,
    find_limit: Annotated[
        bool,
        typer.Option(
            "--find-limit", help="Look for the highest rate that is kept within --objective-ms."
        ),
    ] = False,
    objective_ms: Annotated[
        float | None,
        typer.Option(
            "--objective-ms",
            help="What 99 of 100 calls have to be within, for --find-limit; else 50.",
        ),
    ] = None,
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
    Exit code 0 only with no error, no wrong read and no client lost. Ctrl-C ends it with a report.
    """
    from holdfast.bench.load import command as loading

    settings = loading.Settings(
        profile, clients, processes, rate, closed, seconds, warm_up, stores, durability,
        kill_every, find_limit, objective_ms, asynchronous, seed,
        None if report is None else absolute(report),
    )  # fmt: skip
    return 0 if loading.load_and_tell(settings, as_json=json_) else EXIT_BROKEN_PROMISE


@command
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
    from holdfast.bench.drill import command as drilling

    where = None if directory is None else os.path.realpath(absolute(directory))
    page = None if report is None else absolute(report)
    settings = drilling.Settings(where, stores, faults, seconds, exhaustive, seed, page)
    if replay is not None and settings != drilling.Settings():
        raise InvalidArgument("--replay says all there is to do: no other option but --json fits")
    held = (
        drilling.drill_and_tell(settings, as_json=json_)
        if replay is None
        else drilling.replay_and_tell(replay, as_json=json_)
    )
    return 0 if held else EXIT_BROKEN_PROMISE
