"""An outcome as text for a terminal."""

from collections.abc import Iterator, Sequence

from holdfast.bench.load.outcome import Check, Limit, Outcome

_COLUMNS = ("p50", "p99", "p99_9", "max")


def lines(outcome: Outcome) -> Iterator[str]:
    """The whole of it, a line each."""
    settings = outcome.settings
    pace = "closed loop" if settings.rate is None else f"{settings.rate:g} calls/s"
    yield (
        f"{settings.profile}: {settings.clients} clients in {settings.processes} processes, "
        f"{pace}, durability {settings.durability}, seed {settings.seed}"
    )
    yield (
        f"{outcome.calls:,} calls in {outcome.seconds:.1f} s, {outcome.errors} errors, "
        f"{outcome.wrong_reads} wrong reads, {outcome.read_back:,} keys read back at the end"
        + (f", {outcome.unmade:,} calls due and not made" if outcome.unmade else "")
        + (", interrupted" if outcome.interrupted else "")
    )
    for lost in outcome.lost:
        yield lost.text()
    yield ""
    counted_from = "the call" if settings.rate is None else "the intended start"
    yield f"{f'ms from {counted_from}':28}{'calls/s':>10}" + "".join(
        f"{column.replace('_', '.'):>10}" for column in _COLUMNS
    )
    for operation in outcome.operations:
        figures = "".join(
            f"{operation.latency_ms[column]:10.2f}" if operation.tells(column) else f"{'-':>10}"
            for column in _COLUMNS
        )
        name = f"{operation.store} {operation.operation}"
        yield f"{name:28}{operation.per_second:10.1f}{figures}"
    if outcome.kills:
        times = sorted(kill.recovery_ms for kill in outcome.kills)
        middle = times[len(times) // 2]
        yield ""
        yield (
            f"{len(times)} workers killed; served again after {middle:.0f} ms, "
            f"at most {times[-1]:.0f} ms"
        )
    if outcome.limit is not None:
        yield ""
        yield from _limit(outcome.limit)
    if outcome.checks:
        yield ""
        yield from _checks(outcome.checks)
    for text in outcome.texts:
        yield f"! {text}"


def _checks(checks: Sequence[Check]) -> Iterator[str]:
    """The answers, and one line for each reason why there is none."""
    for check in checks:
        if check.held is not None:
            word = "yes" if check.held else "NO"
            yield f"{check.name}: {word} ({check.figure}; {check.limit})"
    for reason in dict.fromkeys(check.unclear for check in checks if check.held is None):
        names = ", ".join(check.name for check in checks if check.unclear == reason)
        yield f"open, {reason}: {names}"


def _limit(limit: Limit) -> Iterator[str]:
    for step in limit.steps:
        word = "holds" if step.held else step.why_not
        yield f"{step.rate:10.0f}/s: {step.reached:.0f}/s made, p99 {step.p99_ms:.1f} ms, {word}"
    if limit.highest_rate is None:
        yield f"no rate that was tried has p99 within {limit.objective_ms:g} ms"
    else:
        yield f"highest rate with p99 within {limit.objective_ms:g} ms: {limit.highest_rate:.0f}/s"
