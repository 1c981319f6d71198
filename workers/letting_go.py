"""Letting go of a store's files, whatever fails on the way."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def letting_go(*steps: Callable[[], None]) -> Iterator[None]:
    """Take each of these steps behind the block, in order; the lock is let go of last.

    All of them also when the block fails, or one of them does: a lock that stays would keep the
    process itself from opening the store again. What is closed already may be closed once more.
    """
    with contextlib.ExitStack() as held:
        for step in reversed(steps):
            held.callback(step)
        yield
