"""How long a process sleeps before it looks at the clock again."""

_LONGEST_S = 86_400.0


def at_a_time(seconds: float) -> float:
    """So many seconds of the wait, as far as the system's calls can wait in one go.

    They take milliseconds in 31 bits. Whoever waits longer is woken once a day, for nothing.
    """
    return min(seconds, _LONGEST_S)
