"""``python -m holdfast.bench.budgets``: every budget of every store, and whether it is kept.

Exits with 1 when one is short, which a quick run, whose sizes no budget speaks of, never says.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from holdfast.bench import report
from holdfast.bench.groups import GROUPS
from holdfast.bench.measure import Row, machine_facts, version_of
from holdfast.bench.run import FULL, QUICK, Run, directory_of

KEPT_IN = os.path.join("build", "budgets")
BUDGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "runtime": {
        "kill": ("kill",),
        "open": ("open-starts", "open-joins"),
        "idle": ("idle",),
    },
    "fold": {
        "get": ("get",),
        "callers": (
            "callers-threads", "callers-threads-peers",
            "callers-processes", "callers-processes-peers",
        ),
        "batches-never": ("batches-never-bare", "batches-never-peers"),
        "batches-always": ("batches-always-peers",),
        "reopen": ("reopen", "reopen-cached", "recover-cached", "large-memory"),
        "range": ("range",),
        "compaction": ("compaction",),
    },
    "vectors": {
        "vectors-exact": (
            "vectors-exact-128", "vectors-exact-384",
            "vectors-exact-128-batch", "vectors-exact-384-batch",
        ),
        "vectors-approximate": (
            "vectors-approximate-clustered", "vectors-approximate-gaussian",
            "vectors-approximate-stdlib",
        ),
        "vectors-filter": (
            "vectors-filter-1", "vectors-filter-1-again",
            "vectors-filter-10", "vectors-filter-10-again",
        ),
        "vectors-ingest": ("vectors-ingest",),
        "vectors-commits": ("vectors-commits",),
        "vectors-index": ("vectors-index", "vectors-index-ingest"),
        "vectors-open": ("vectors-open-exact", "vectors-open-index"),
        "vectors-memory": ("vectors-memory", "vectors-memory-reopened"),
    },
    "warm": {
        "warm-write-never": (
            "warm-write-never-many", "warm-write-never-each", "warm-write-never-one",
        ),
        "warm-write-always": (
            "warm-write-always-many", "warm-write-always-each", "warm-write-always-one",
        ),
        "warm-put": ("warm-put",),
        "warm-range": (
            "warm-range-many", "warm-range-many-written",
            "warm-range-many-duckdb", "warm-range-many-parquet-dataset",
            "warm-range-one", "warm-range-one-written",
            "warm-range-one-duckdb", "warm-range-one-parquet-dataset",
        ),
        "warm-whole": ("warm-whole",),
        "warm-scan": ("warm-scan-first", "warm-scan"),
        "warm-get": ("warm-get-1000", "warm-get-100000", "warm-get-1000000", "warm-get-growth"),
        "warm-open": (
            "warm-open-small", "warm-open-large", "warm-open-growth",
            "warm-open-killed", "warm-open-killed-empty",
        ),
    },
    "index": {
        "index-save": ("index-save-none", "index-save-lz4", "index-save-zstd"),
        "index-load": ("index-load-none", "index-load-lz4", "index-load-zstd"),
        "index-insert": ("index-insert-never", "index-insert-always"),
        "index-replay": ("index-replay",),
    },
    "registry": {
        "registry-save": ("registry-save",),
        "registry-nearest": ("registry-nearest",),
    },
}  # fmt: skip
"""The rows that have a budget, by store and by the group that measures them."""

_PEERS = {
    "vectors-exact": "faiss-cpu", "vectors-approximate": "faiss-cpu", "vectors-index": "faiss-cpu",
    "warm-range": "duckdb",
}  # fmt: skip
"""Without these, some rows of a group do not come about."""

Verdict = Literal["pass", "short", "not measured"]
_SHOWN: dict[Verdict, str] = {
    "pass": "[green]pass[/]",
    "short": "[red]SHORT[/]",
    "not measured": "[yellow]not measured[/]",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a group came to, and how long it took to find out."""

    seconds: float
    rows: list[Row]


class Kept:
    """The figures of one store in a file, group by group, so that a run can be gone on with."""

    def __init__(self, directory: str, store: str, sizes: dict[str, Any]) -> None:
        self._path = os.path.join(directory, f"{store}.json")
        self._sizes = sizes
        self.groups: dict[str, Measured] = {}

    def recall(self) -> None:
        """Take over the groups of an earlier run of the same sizes; none if there was none."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            kept = msgspec.json.decode(file.read())
            if kept["sizes"] == json.loads(json.dumps(self._sizes)):
                self.groups = msgspec.convert(kept["groups"], dict[str, Measured])

    def keep(self, group: str, measured: Measured, machine: dict[str, object]) -> None:
        """Add a group, on disk as well."""
        self.groups[group] = measured
        content = {"machine": machine, "sizes": self._sizes, "groups": self.groups}
        fresh = self._path + ".new"
        with open(fresh, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=2))
        os.replace(fresh, self._path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print the verdicts; 1 if a budget is short, else 0."""
    options = _parser().parse_args(arguments)
    known = [*BUDGETS, *(group for groups in BUDGETS.values() for group in groups)]
    asked = options.only.split(",") if options.only else list(BUDGETS)
    if unknown := [name for name in asked if name not in known]:
        there = ", ".join(dict.fromkeys(known))
        print(f"no budgets of: {', '.join(unknown)}; there are: {there}", file=sys.stderr)
        return 2
    os.makedirs(options.keep, exist_ok=True)
    sizes = QUICK if options.quick else FULL
    found: dict[str, dict[str, Measured]] = {}
    with directory_of(os.getcwd()) as directory:
        run = Run(directory, sizes)
        for store in BUDGETS:
            groups = [name for name in BUDGETS[store] if store in asked or name in asked]
            kept = Kept(options.keep, store, dataclasses.asdict(sizes))
            if options.resume:
                kept.recall()
            for name in groups:
                if name not in kept.groups:
                    kept.keep(name, _measured(run, name), machine_facts(directory))
            if groups:
                found[store] = {name: kept.groups[name] for name in groups}
    verdicts = list(_show(found, Console(width=None if sys.stdout.isatty() else 160)))
    return int("short" in verdicts and not options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdfast.bench.budgets", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help="stores, or groups of their rows")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument(
        "--resume", action="store_true", help="do not measure again what an earlier run has kept"
    )
    parser.add_argument(
        "--keep", metavar="DIR", default=KEPT_IN, help="where each store's figures are kept"
    )
    return parser


def _measured(run: Run, name: str) -> Measured:
    run.say(f"{name} ...")
    began = time.perf_counter()
    rows = GROUPS[name](run)
    return Measured(time.perf_counter() - began, rows)


def verdict_on(row: Row | None) -> Verdict:
    """What is to be said of a budget, whose row may not have come about."""
    if row is None or row.met is None:
        return "not measured"
    return "pass" if row.met else "short"


def _show(found: dict[str, dict[str, Measured]], console: Console) -> Iterator[Verdict]:
    """Print each store's budgets, then what was not measured and how long it all took."""
    reasons: list[str] = []
    for store, groups in found.items():
        table = Table(title=store, title_justify="left")
        for heading in ("budget of", "what", "budget", "measured", "beside", "came to", "ratio",
                        "verdict"):  # fmt: skip
            table.add_column(heading, overflow="fold")
        for group, measured in groups.items():
            rows = {row.name: row for row in measured.rows}
            for name in BUDGETS[store][group]:
                row = rows.get(name)
                verdict = verdict_on(row)
                table.add_row(name, *_cells(row), _SHOWN[verdict])
                if verdict == "not measured":
                    reasons.append(f"{name}: not measured: {_reason(group, row)}")
                yield verdict
        console.print(table)
    for reason in reasons:
        console.print(reason, markup=False, highlight=False)
    took = {name: m.seconds for groups in found.values() for name, m in groups.items()}
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
    console.print(f"took {sum(took.values()):.0f} s: {times}", markup=False, highlight=False)


def _reason(group: str, row: Row | None) -> str:
    if row is not None:
        return row.absent
    peer = _PEERS.get(group)
    if peer and version_of(peer) is None:
        return f"{peer} is not installed"
    return "these sizes have no such row"


def _cells(row: Row | None) -> tuple[str, ...]:
    if row is None:
        return ("",) * 6
    over = row.other if row.other is not None else row.limit and row.limit[1]
    return (
        row.what,
        report.bound(row.budget, row),
        f"{report.figure(row.value)} {row.unit}",
        *report.beside(row),
        f"{row.value / over:.2f}" if over else "",
    )


if __name__ == "__main__":
    sys.exit(main())
