"""``holdfast load``: settings checked, the load run under a live view, the outcome shown."""

import os
import random
import sys
from dataclasses import dataclass
from typing import get_args

import msgspec

from holdfast.bench.load import profile as profiles
from holdfast.bench.load.limit import find_limit
from holdfast.bench.load.live import Live
from holdfast.bench.load.outcome import Outcome
from holdfast.bench.load.page import page
from holdfast.bench.load.session import PREFIX, Wish, run
from holdfast.bench.load.summary import lines
from holdfast.bench.scratch import swept
from holdfast.formats.errors import InvalidArgument
from holdfast.workers.message import Durability

CLIENTS_MAX = 1024
SEED_MAX = (1 << 63) - 1
LIMIT_STEP_S = 10.0
OBJECTIVE_MS = 50.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    profile: str
    clients: int
    processes: int
    rate: float | None
    closed: bool
    seconds: float | None
    warm_up_s: float
    stores: str | None
    durability: str | None
    kill_every_s: float | None
    find_limit: bool
    objective_ms: float | None
    asynchronous: bool
    seed: int | None
    page: str | None
    """Where to write the HTML page."""


def load_and_tell(settings: Settings, *, as_json: bool) -> bool:
    """Run a load and print what came of it; whether nothing failed and no read was wrong."""
    wish = wished(settings)
    for name in swept(PREFIX, os.getcwd()):
        print(f"removed {name}, which a load test that was killed had left here", file=sys.stderr)
    with Live(wish, quiet=as_json) as live:
        if settings.find_limit:
            objective_ms = settings.objective_ms or OBJECTIVE_MS
            outcome = find_limit(wish, objective_ms, live.say, live.show)
        else:
            outcome = run(wish, live.say, live.show)
    if as_json:
        sys.stdout.write(msgspec.json.encode(fields(outcome)).decode() + "\n")
    else:
        for line in lines(outcome):
            print(line)
    if settings.page is not None:  # last, so that what was found is told if it cannot be written
        with open(settings.page, "w", encoding="utf-8") as file:
            file.write(page(outcome))
    return outcome.ok


def fields(outcome: Outcome) -> dict[str, object]:
    """The outcome as JSON has it: its fields, and first whether all is well."""
    built: dict[str, object] = {"ok": outcome.ok, "calls": outcome.calls}
    return built | dict(msgspec.to_builtins(outcome))


def wished(settings: Settings) -> Wish:
    """What is to be run. Raises ``InvalidArgument`` before anything is done."""
    _between("--clients", settings.clients, 1, CLIENTS_MAX)
    _between("--processes", settings.processes, 1, settings.clients)
    if settings.closed and (settings.rate is not None or settings.find_limit):
        other = "--rate" if settings.rate is not None else "--find-limit"
        raise InvalidArgument(f"--closed and {other} exclude each other")
    if settings.objective_ms is not None and not settings.find_limit:
        raise InvalidArgument("--objective-ms is for --find-limit only")
    numbers = {
        "--rate": settings.rate, "--seconds": settings.seconds,
        "--kill-every": settings.kill_every_s, "--objective-ms": settings.objective_ms,
    }  # fmt: skip
    for option, number in numbers.items():
        if number is not None:
            _between(option, number, 1e-3, 1e7)
    _between("--warm-up", settings.warm_up_s, 0, 1e7)
    _between("--seed", settings.seed or 0, 0, SEED_MAX)
    if settings.page is not None:
        if not os.path.isdir(os.path.dirname(settings.page) or "."):
            raise InvalidArgument(
                f"there is no directory for {settings.page!r}", path=settings.page
            )
        if os.path.isdir(settings.page):
            raise InvalidArgument(f"--report {settings.page!r} is a directory", path=settings.page)
    profile = profiles.load(settings.profile)
    if settings.stores is not None:
        kinds = tuple(word.strip() for word in settings.stores.split(","))
        for kind in kinds:
            if kind not in profiles.OPERATIONS:
                known = ", ".join(profiles.OPERATIONS)
                raise InvalidArgument(f"--stores {kind!r} is none of {known}")
        profile = profiles.only(profile, kinds)
    seconds = settings.seconds or (LIMIT_STEP_S if settings.find_limit else 30.0)
    if settings.kill_every_s is not None and settings.kill_every_s >= seconds:
        raise InvalidArgument(
            f"--kill-every {settings.kill_every_s:g} kills nothing in the {seconds:g} seconds that "
            "are measured"
        )
    seed = random.SystemRandom().getrandbits(32) if settings.seed is None else settings.seed
    rate = None if settings.closed else settings.rate or profile.rate
    wish = Wish(
        profile, settings.clients, settings.processes, rate, seconds, settings.warm_up_s,
        _durability(settings.durability, profile.durability), settings.kill_every_s, seed,
        settings.asynchronous,
    )  # fmt: skip
    wish.check()
    return wish


def _durability(said: str | None, default: Durability) -> Durability:
    if said is None:
        return default
    policies: tuple[Durability, ...] = get_args(Durability)
    for policy in policies:
        if policy == said:
            return policy
    raise InvalidArgument(f"--durability {said!r} is none of {', '.join(get_args(Durability))}")


def _between(option: str, number: float, low: float, high: float) -> None:
    if not low <= number <= high:
        raise InvalidArgument(f"{option} {number:g} is not between {low:g} and {high:g}")
