"""``python -m holdfast.bench.peers``: the engine side by side with what one would use instead."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.markdown import Markdown

from holdfast.bench import run as running
from holdfast.bench.measure import machine_facts, version_of
from holdfast.bench.peers import calls, key_value, limits, scaling, time_ranges, vectors, words
from holdfast.bench.peers.contest import OURS, Contest
from holdfast.bench.peers.sizes import FULL, QUICK, Sizes
from holdfast.bench.run import Run

AREAS: Mapping[str, tuple[str, Callable[[Contest, Sizes], None]]] = {
    "key-value": ("Durable keys and values", key_value.compare),
    "vectors": ("Vectors", vectors.compare),
    "time-ranges": ("Points in time", time_ranges.compare),
    "calls": ("A call's round trip", calls.compare),
}
SCALING = "scaling"
PACKAGES = (
    "holdfast", "numpy", "pyarrow", "lmdb", "rocksdict", "diskcache", "faiss-cpu", "hnswlib",
    "usearch", "lancedb", "chromadb", "sqlite-vec", "apsw", "duckdb", "ray", "xoscar",
)  # fmt: skip
"""Whose versions stand beside the figures."""
_DRAWING = "matplotlib"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure area by area; 1 if the engine itself took no part in one because it failed."""
    options = _parser().parse_args(arguments)
    names = options.only.split(",") if options.only else [*AREAS, SCALING]
    if unknown := [name for name in names if name not in {*AREAS, SCALING}]:
        print(f"no such area: {', '.join(unknown)}; there are: {', '.join([*AREAS, SCALING])}",
              file=sys.stderr)  # fmt: skip
        return 2
    sizes = QUICK if options.quick else FULL
    found: dict[str, dict[str, object]] = {}
    console = Console(file=sys.stderr if options.json == "-" else sys.stdout, width=140)
    with running.directory_of(options.directory) as directory:
        run = Run(directory, running.QUICK if options.quick else running.FULL)
        for name in names:
            run.say(f"{name} ...")
            began = time.monotonic()
            facts = machine_facts(directory, PACKAGES)
            report, text, draw = _curves(run, sizes) if name == SCALING else _area(run, name, sizes)
            took = time.monotonic() - began
            found[name] = {"machine": facts, "quick": options.quick, "took_s": took, **report}
            console.print(Markdown(f"# {name}\n\n{text}"))
            run.say(f"{name}: {took:.0f} s")
            if options.page:
                said = words.machine_words(facts) + "\nSmall sizes.\n" * options.quick
                _keep(options.page, name, found[name], f"{said}\n{text}", draw)
    if options.json:
        _write(options.json, json.dumps(found, indent=2) + "\n")
    return int(any(_failed(report) for report in found.values()))


def _parser() -> argparse.ArgumentParser:
    areas = ", ".join([*AREAS, SCALING])
    parser = argparse.ArgumentParser(prog="python -m holdfast.bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, which say little")
    parser.add_argument("--only", metavar="AREA,...", help=areas)
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - for stdout")
    parser.add_argument(
        "--directory", default=os.getcwd(),
        help="where to make a directory for the data (default: the current one)",
    )  # fmt: skip
    parser.add_argument(
        "--page", metavar="FILE.md",
        help="put each area's tables into this page as soon as it is done, and its figures as JSON "
        "and as SVG into figures/ beside it",
    )  # fmt: skip
    return parser


Result = tuple[dict[str, object], str, Callable[[str], None]]
"""What an area came to: for programs, for people, and how to draw it."""


def _area(run: Run, name: str, sizes: Sizes) -> Result:
    title, compare = AREAS[name]
    contest = Contest(run)
    speeds = limits.of_machine(run, sizes.bodies, sizes.long_repetitions)
    compare(contest, sizes)
    rows = contest.rows
    text = "\n".join(
        [words.rows_table(rows), words.notes(rows, contest.left_out), words.speeds_table(speeds)]
    )
    report: dict[str, object] = {
        "rows": [row.as_json() for row in rows],
        "left_out": contest.left_out,
        "limits": [speed.as_json() for speed in speeds],
    }

    def draw(path: str) -> None:
        from holdfast.bench.peers import charts

        charts.draw_rows(path, title, rows)

    return report, text, draw


def _curves(run: Run, sizes: Sizes) -> Result:
    drawing = scaling.draw(run, sizes)

    def draw(path: str) -> None:
        from holdfast.bench.peers import charts

        charts.draw_curves(path, drawing.curves)

    report: dict[str, object] = {
        "curves": [curve.as_json() for curve in drawing.curves],
        "not_drawn": drawing.left_out,
    }
    return report, words.curves_table(drawing.curves, drawing.left_out), draw


def _failed(report: Mapping[str, object]) -> bool:
    left_out = report.get("left_out", {})
    assert isinstance(left_out, dict)
    return any(name.startswith(OURS) and "failed" in why for name, why in left_out.items())


def _keep(
    page: str, name: str, report: Mapping[str, object], text: str, draw: Callable[[str], None]
) -> None:
    """The JSON, the chart, and the text between the area's marks in the page."""
    figures = os.path.join(os.path.dirname(page), "figures")
    os.makedirs(figures, exist_ok=True)
    _write(os.path.join(figures, f"{name}.json"), json.dumps(report, indent=2) + "\n")
    if version_of(_DRAWING):
        draw(os.path.join(figures, f"{name}.svg"))
    else:
        print(f"{_DRAWING} is not installed, so there is no chart", file=sys.stderr)
    begins, ends = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    with open(page, encoding="utf-8") as file:
        before, found, rest = file.read().partition(begins)
    if not found or ends not in rest:
        raise ValueError(f"{page} has no {begins.strip()} ... {ends} to put the table between")
    _write(page, f"{before}{begins}{text}{rest[rest.index(ends) :]}")


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text, end="")
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
