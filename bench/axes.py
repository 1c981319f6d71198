"""Axes of charts: where a value lies along them, and round values to label."""

import math
from collections.abc import Callable
from typing import NamedTuple

_TICKS_MAX = 6
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_TIME_UNITS = ((3600, "h"), (60, "min"), (1, "s"))
_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999)


class Axis(NamedTuple):
    """From ``low`` to ``high``; ``scaled`` is what is drawn evenly."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    """Values, ascending and within the axis, with their labels."""
    scaled: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """How far along a value lies: from 0 to 1, also if it is beyond an end."""
        within = min(max(value, self.low), self.high)
        low = self.scaled(self.low)
        return (self.scaled(within) - low) / (self.scaled(self.high) - low)


def linear(highest: float, unit: str, *, ticks: int = 4) -> Axis:
    """From 0 to a round value. Without a unit values are counts, and steps are whole."""
    highest = highest if highest > 0 else 1.0
    rough = highest / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough * (1 - 1e-9))
    if not unit:
        step = max(1.0, math.ceil(step))
    count = max(1, math.ceil(highest / step - 1e-9))
    values = [step * place for place in range(count + 1)]
    return Axis(0.0, values[-1], tuple((value, _with(value, unit)) for value in values))


def logarithmic(lowest: float, highest: float, unit: str) -> Axis:
    """Powers of ten are labelled, over short spans 2 and 5 between them as well."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1
    values = [one * 10.0**power for power in range(first, last + 1) for one in (1, 2, 5)]
    low = max(value for value in values if value <= lowest * (1 + 1e-9))
    high = min(value for value in values if value >= highest * (1 - 1e-9) and value > low)
    inside = [value for value in values if low <= value <= high]
    if len(inside) > _TICKS_MAX + 1:
        powers = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
        inside = [10.0**power for power in powers[:: -(-len(powers) // _TICKS_MAX)]]
    return Axis(low, high, tuple((value, _with(value, unit)) for value in inside), math.log10)


def time(last_s: float) -> Axis:
    """Seconds from 0 on, labelled in seconds, minutes or hours."""
    last_s = max(last_s, 1.0)
    step = next((one for one in _TIMES if last_s / one <= _TICKS_MAX), _TIMES[-1])
    seconds, unit = next((s, unit) for s, unit in _TIME_UNITS if step % s == 0)
    values = range(0, math.floor(last_s) + 1, step)
    return Axis(0.0, last_s, tuple((value, _with(value / seconds, unit)) for value in values))


def percentiles(highest: float) -> Axis:
    """From 0 to a percentile under 100: 90, 99 and 99.9 are equally far from each other."""
    kept = [one for one in _PERCENTILES if one <= highest]
    return Axis(0.0, max(highest, 1.0), tuple((one, f"{one:g} %") for one in kept), _rarity)


def _rarity(percentile: float) -> float:
    """Decimal digits of what is left above a percentile."""
    return -math.log10(1 - percentile / 100)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _with(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".rstrip()
