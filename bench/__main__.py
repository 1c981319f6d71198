"""``python -m holdfast.bench``: measure, print a table, write JSON."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.markdown import Markdown

from holdfast.bench import report, transport
from holdfast.bench.groups import GROUPS
from holdfast.bench.measure import Row, machine_facts
from holdfast.bench.run import FULL, QUICK, Run, directory_of

KINDS = ("vectors", "warm", "index")
"""Each stands for every group whose name begins with it."""
TRANSPORT = "transport"
_TABLE_BEGINS, _TABLE_ENDS = "<!-- table -->\n", "<!-- end of table -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks. Verdicts on budgets are in the table; ``bench.budgets`` exits by them."""
    options = _parser().parse_args(arguments)
    names = _meant(options.only.split(",")) if options.only else [*GROUPS, TRANSPORT]
    if unknown := [name for name in names if name not in {*GROUPS, TRANSPORT}]:
        known = ", ".join([*GROUPS, *KINDS, TRANSPORT])
        print(f"no such benchmark: {', '.join(unknown)}; there are: {known}", file=sys.stderr)
        return 2
    where = options.directory or os.getcwd()
    with directory_of(where) as directory:
        machine = machine_facts(directory)
        run = Run(directory, QUICK if options.quick else FULL)
        rows = _rows(run, names)
        figures = _transport(run) if TRANSPORT in names else {}
    _show(rows, figures, sys.stderr if options.json == "-" else sys.stdout)
    if options.json:
        more = {TRANSPORT: transport.as_json(figures)} if figures else {}
        sizes = dataclasses.asdict(run.sizes)
        _write(options.json, report.as_json(machine, rows, sizes=sizes, **more))
    if options.figures and figures:
        kept = transport.as_json(figures)
        _keep(options.figures, TRANSPORT, machine, kept, transport.as_markdown(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdfast.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; no budget counts")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join([*GROUPS, *KINDS, TRANSPORT]))
    parser.add_argument("--json", metavar="FILE", help="write the report there; - for stdout")
    parser.add_argument(
        "--directory", help="where to make a directory for the data (default: the current one)"
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help=f"keep the figures of {TRANSPORT} there",
    )
    return parser


def _meant(names: Sequence[str]) -> list[str]:
    """The names, with those of its groups in place of a kind."""
    groups = {kind: [name for name in GROUPS if name.startswith(f"{kind}-")] for kind in KINDS}
    return [meant for name in names for meant in groups.get(name, [name])]


def _rows(run: Run, names: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for name, measure in GROUPS.items():
        if name in names:
            run.say(f"{name} ...")
            rows += measure(run)
    if run.sizes.quick:
        rows = [dataclasses.replace(row, note=f"quick; {row.note}".rstrip("; ")) for row in rows]
    return rows


def _transport(run: Run) -> transport.Figures:
    run.say(f"{TRANSPORT} ...")
    return transport.measure(run.sizes.bodies, run.sizes.repetitions, run.say)


def _show(rows: Sequence[Row], figures: transport.Figures, stream: TextIO) -> None:
    console = Console(file=stream, width=None if stream.isatty() else 160)
    if rows:
        report.print_table(console, rows)
    if figures:
        console.print(Markdown(transport.as_markdown(figures)))


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text, end="")
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _keep(
    directory: str, name: str, machine: dict[str, object], figures: dict[str, object], table: str
) -> None:
    """Write the JSON, and put the table into the page beside it."""
    kept = {"machine": machine} | figures
    _write(os.path.join(directory, f"{name}.json"), json.dumps(kept, indent=2) + "\n")
    page = os.path.join(directory, f"{name}.md")
    with open(page, encoding="utf-8") as file:
        before, _, rest = file.read().partition(_TABLE_BEGINS)
    after = rest.partition(_TABLE_ENDS)[2]
    _write(page, f"{before}{_TABLE_BEGINS}{table}{_TABLE_ENDS}{after}")


if __name__ == "__main__":
    sys.exit(main())
