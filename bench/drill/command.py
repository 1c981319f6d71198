"""``holdfast drill``: settings checked, drills run under progress, the report written and shown."""

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, get_args

from msgspec import structs

from holdfast.bench.drill import replay as replaying
from holdfast.bench.drill import report
from holdfast.bench.drill.kept import settled
from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.page import page
from holdfast.bench.drill.plan import FAULTS, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.run import Outcome, run, scratch
from holdfast.bench.drill.tally import Failure
from holdfast.formats.errors import InvalidArgument

T = TypeVar("T", bound=str)

SECONDS = 60.0
"""How long a run takes if nothing is said about it."""
_SECONDS_MAX = 1e7
_SEED_MAX = (1 << 63) - 1 - (1 << 32)  # drills of engines count on from it


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    directory: str | None = None
    stores: str | None = None
    faults: str | None = None
    seconds: float | None = None
    exhaustive: bool = False
    seed: int | None = None
    page: str | None = None
    """Where to write the HTML page."""


def drill(settings: Settings, *, quiet: bool) -> Outcome:
    """Run what the settings say. Raises ``InvalidArgument`` before anything is done."""
    if settings.exhaustive and settings.seconds is not None:
        raise InvalidArgument("--exhaustive and --seconds exclude each other")
    if settings.seconds is not None and not 0 < settings.seconds <= _SECONDS_MAX:
        raise InvalidArgument(
            f"--seconds {settings.seconds} is not more than 0 and at most {_SECONDS_MAX:.0f}"
        )
    stores = chosen("--stores", settings.stores, get_args(StoreKind)) or tuple(OPENERS)
    faults = chosen("--faults", settings.faults, get_args(FaultKind)) or FAULTS
    if settings.page is not None and not os.path.isdir(os.path.dirname(settings.page) or "."):
        raise InvalidArgument(f"there is no directory for {settings.page!r}", path=settings.page)
    if settings.page is not None and os.path.isdir(settings.page):
        raise InvalidArgument(f"{settings.page!r} is a directory", path=settings.page)
    if settings.seed is not None and not 0 <= settings.seed <= _SEED_MAX:
        raise InvalidArgument(f"--seed {settings.seed} is not between 0 and {_SEED_MAX}")
    seed = random.SystemRandom().getrandbits(32) if settings.seed is None else settings.seed
    work = scratch()
    plan = Plan(
        seed, work, stores, frozenset(faults), settings.exhaustive, settings.directory,
        processes=os.cpu_count() or 1,
    )  # fmt: skip
    seconds = None if settings.exhaustive else settings.seconds or SECONDS
    try:
        with progressing(quiet=quiet) as progress:
            outcome = run(plan, seconds, progress)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    outcome.tally.failures[:] = settled(outcome.tally.failures, work, settings.directory)
    return outcome


def drill_and_tell(settings: Settings, *, as_json: bool) -> bool:
    """Run drills and print the report; whether every promise held."""
    outcome = drill(settings, quiet=as_json)
    if as_json:
        print(json.dumps(report.fields(outcome)))
    else:
        show(outcome)
    if settings.page is not None:  # last, so that what was found is told if it cannot be written
        with open(settings.page, "w", encoding="utf-8") as file:
            file.write(page(outcome))
    return outcome.ok


def replay_and_tell(text: str, *, as_json: bool) -> bool:
    """Do again what a failure's command says, and print what came of it; whether it holds now."""
    failure = replay(text)
    fields = None if failure is None else structs.asdict(failure)
    if as_json:
        print(json.dumps({"scenario": text, "failure": fields}))
    else:
        print("\n".join([f"held: {text}"] if fields is None else report.failure_lines(fields)))
    return failure is None


def chosen(option: str, text: str | None, known: tuple[T, ...]) -> tuple[T, ...]:
    """The words of a list with commas, in the order of those known; ``InvalidArgument``."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise InvalidArgument(f"{option} {word!r} is none of {', '.join(known)}")
    return tuple(word for word in known if word in words)


def replay(text: str) -> Failure | None:
    """Do again what a failure's command says; None if it holds now. ``InvalidArgument``."""
    work = scratch()
    try:
        failure = replaying.replay(text, work)
    except ValueError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise InvalidArgument(f"--replay {text!r}: {error}") from error
    found = settled([] if failure is None else [failure], work)
    return found[0] if found else None


def show(outcome: Outcome) -> None:
    """Print the report as text."""
    for line in report.lines(report.fields(outcome)):
        print(line)
    if outcome.tally.not_covered:
        print(
            f"not covered: {len(outcome.tally.not_covered)} things; --json and --report list them"
        )


@contextlib.contextmanager
def progressing(*, quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: bars where somebody can see them, else a line for each new thing."""
    if quiet:
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().say
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda what, done, of: bars.update(task, description=what, completed=done, total=of)


class _Lines:
    """Says what is done, once each."""

    def __init__(self) -> None:
        self._last = ""

    def say(self, what: str, done: int, of: int | None) -> None:
        """Print what is new."""
        if what != self._last:
            self._last = what
            print(what, file=sys.stderr, flush=True)
