"""The highest rate that holds: raised until an objective breaks, then narrowed down."""

import contextlib
from collections.abc import Callable

import msgspec

from holdfast.bench.load.outcome import Limit, Outcome, Step
from holdfast.bench.load.session import Say, Show, Totals, Wish, session
from holdfast.bench.load.timings import Histogram

GROWTH = 1.6
NARROW = 1.08
"""The search ends when the lowest rate that broke is so near to the highest that held."""
STEPS_MAX = 24
KEPT = 0.95
"""A rate is kept when at least this share of its calls was made within the time."""


def search(try_: Callable[[float], Step], begin: float) -> float | None:
    """The highest rate that held; tried are rates up or down by a factor, then between two."""
    held: float | None = None
    broke: float | None = None
    rate = begin
    for _ in range(STEPS_MAX):
        if try_(rate).held:
            held = rate
        else:
            broke = rate
        if held is None:
            rate /= GROWTH
            if rate < 1:
                break
        elif broke is None:
            rate *= GROWTH
        elif broke <= held * NARROW:
            break
        else:
            rate = (held * broke) ** 0.5
    return held


def find_limit(wish: Wish, objective_ms: float, say: Say, show: Show) -> Outcome:
    """Search, ``wish.seconds`` a step, from the wished rate on; the outcome is the best step's.

    What failed or was wrong counts whichever step it was in.
    """
    tried: list[tuple[Step, Totals]] = []
    with session(wish, say) as (running, data):

        def try_(rate: float) -> Step:
            totals = running.round(rate, wish.warm_up_s, wish.seconds, show, wish.kill_every_s)
            step = judged(rate, totals, objective_ms)
            over = "interrupted" if running.interrupted else ""
            for lost in running.lost:
                over = f"{lost.process} {lost.how}"
            if over:
                step = msgspec.structs.replace(step, held=False, why_not=over)
            tried.append((step, totals))
            if over:
                raise _Over
            word = "holds" if step.held else f"does not hold: {step.why_not}"
            say(f"{rate:.0f}/s {word} (reached {step.reached:.0f}/s, p99 {step.p99_ms:.1f} ms)")
            return step

        with contextlib.suppress(_Over):
            search(try_, wish.rate or wish.profile.rate)
        held = [one for one in tried if one[0].held]
        best, totals = max(held, key=lambda one: one[0].rate) if held else tried[-1]
        for _, other in tried:
            if other is not totals:
                totals.add_failures(other)
        say("reading everything back")
        running.audit(totals)
        limit = Limit(objective_ms, best.rate if held else None, [step for step, _ in tried])
        outcome = running.outcome(totals, data)
        settings = msgspec.structs.replace(outcome.settings, rate=best.rate)
        return msgspec.structs.replace(outcome, settings=settings, limit=limit)


class _Over(Exception):
    """Ended by the user in the middle of the search, or without all its clients."""


def judged(rate: float, totals: Totals, objective_ms: float) -> Step:
    """Whether a rate held: no errors, the rate kept, p99 within the objective."""
    everything, made = Histogram(), 0
    for label, histogram in totals.latency.items():
        everything.merge(histogram)
        made += totals.service[label].count
    reached = made / max(totals.seconds, 1e-9)
    p99_ms = everything.percentile_ms(99.0)
    errors = sum(totals.errors.values()) + sum(totals.wrong.values())
    why_not = ""
    if errors:
        why_not = f"{errors} errors and wrong reads"
    elif reached < KEPT * rate:
        why_not = f"the rate is not kept: {reached:.0f}/s"
    elif p99_ms > objective_ms:
        why_not = f"p99 {p99_ms:.1f} ms is over {objective_ms:g} ms"
    return Step(round(rate, 1), round(reached, 1), round(p99_ms, 3), errors, not why_not, why_not)
