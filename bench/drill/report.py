"""What a run found, as JSON, as text, and as one HTML page that needs nothing else.

The keys of the JSON object::

    seed, seconds         of the run; ``seconds`` is what it took
    ok                    every promise held
    exhaustive            all short sequences were tried, not as many as there was time for
    interrupted           it was ended by Ctrl-C
    source                the directory whose copy was drilled, or null
    version, machine      of holdfast; what it ran on
    promises              list of {promise, verdict, tried, failures}: verdict is ``held``,
                          ``broken`` or ``not covered``, ``failures`` how often it was broken
    stores                by kind: {crash_states, kill_points, bit_flips, torn, exchanged,
                          errors_injected, process_faults, clock_jumps, operations}
    faults                how often each was tried, by name
    parts                 list of {name, fault, seconds, tried}, in the order they were run
    lost_acknowledged, wrong_answers, leaked_processes    counts
    recovery_ms           {p50, p99, max, count}: from a death to the successor's first answer;
                          null where there was none
    failures              list of {promise, store, fault, detail, seed, operations, state, replay,
                          history}
    timeline              of the soak, list of {second, calls, failed, p50_ms, p99_ms, faults,
                          restarts, descriptors, memory_mib, disk_mib}
    not_covered           list of sentences
"""

import os
import platform
from collections.abc import Sequence
from typing import cast

import msgspec

import holdfast
from holdfast.bench.drill.run import Outcome
from holdfast.bench.drill.verdicts import judge


def fields(outcome: Outcome) -> dict[str, object]:
    """The report as JSON has it."""
    plan, tally = outcome.plan, outcome.tally
    found = cast("dict[str, object]", msgspec.to_builtins(tally))
    return {
        "seed": plan.seed,
        "seconds": outcome.seconds,
        "ok": outcome.ok,
        "exhaustive": plan.exhaustive,
        "interrupted": outcome.interrupted,
        "source": plan.source,
        "version": holdfast.__version__,
        "machine": machine(),
        "promises": [
            {
                "promise": one.promise,
                "verdict": one.verdict,
                "tried": one.tried,
                "failures": one.broken,
            }
            for one in judge(outcome)
        ],
        "stores": found["stores"],
        "faults": found["faults"],
        "parts": msgspec.to_builtins(outcome.parts),
        "lost_acknowledged": tally.lost_acknowledged,
        "wrong_answers": tally.wrong_answers,
        "leaked_processes": tally.leaked_processes,
        "recovery_ms": recovery(tally.recovery_ms),
        "failures": found["failures"],
        "timeline": found["timeline"],
        "not_covered": tally.not_covered,
    }


def recovery(times_ms: Sequence[float]) -> dict[str, float | int | None]:
    """Median, 99th percentile and maximum of recovery times."""
    ordered = sorted(times_ms)
    if not ordered:
        return {"p50": None, "p99": None, "max": None, "count": 0}
    last = len(ordered) - 1
    return {
        "p50": ordered[round(0.5 * last)],
        "p99": ordered[round(0.99 * last)],
        "max": ordered[-1],
        "count": len(ordered),
    }


def machine() -> str:
    """What it ran on, without its name."""
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def lines(report: dict[str, object]) -> list[str]:
    """The report as text: verdicts, counts, failures."""
    found = cast("dict[str, list[dict[str, object]]]", report)
    said = [
        f"{one['verdict']!s:<12} {one['promise']} ({one['tried']:,} faults tried)"
        for one in found["promises"]
    ]
    stores = cast("dict[str, dict[str, int]]", report["stores"])
    for kind, counts in stores.items():
        tried = ", ".join(
            f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number
        )
        said.append(f"{kind}: {tried or 'nothing'}")
    times = cast("dict[str, float | None]", report["recovery_ms"])
    if times["count"]:
        said.append(
            f"recovery: {times['p50']:.1f} ms median, {times['p99']:.1f} ms p99, "
            f"{times['max']:.1f} ms at most, of {times['count']}"
        )
    for failure in found["failures"]:
        said += failure_lines(failure)
    said.append(
        f"lost {report['lost_acknowledged']}, wrong {report['wrong_answers']}, "
        f"leaked {report['leaked_processes']}; seed {report['seed']}, {report['seconds']:.1f} s"
        + (", interrupted" if report["interrupted"] else "")
        + ("" if any(one["tried"] for one in found["parts"]) else "; nothing was tried")
    )
    return said


def failure_lines(failure: dict[str, object]) -> list[str]:
    """Everything about one broken promise."""
    operations = cast("list[str]", failure["operations"])
    return [
        f"BROKEN: {failure['promise']}",
        f"  store       {failure['store']}, fault {failure['fault']}, seed {failure['seed']}",
        *([f"  operations  {', '.join(operations)}"] if operations else []),
        f"  found       {failure['detail']}",
        *(f"  client      {line}" for line in cast("list[str]", failure["history"])),
        *([f"  files       {failure['state']}"] if failure["state"] else []),
        *([f"  again       {failure['replay']}"] if failure["replay"] else []),
    ]
