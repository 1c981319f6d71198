"""Forked children: what is their parent's they let go of."""

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that a fork must not share."""

    def _leave_to_parent(self) -> None: ...


_watched: "weakref.WeakSet[Forkable]" = weakref.WeakSet()
_hook = threading.Lock()
_hook_set = False


def watch(one: Forkable) -> None:
    """From now on a forked child has this leave to its parent what is its parent's.

    The first call sets the hook up, so that importing this changes nothing.
    """
    global _hook_set
    with _hook:
        if not _hook_set:
            os.register_at_fork(after_in_child=_after_fork)
            _hook_set = True
        _watched.add(one)


def _after_fork() -> None:
    global _hook
    _hook = threading.Lock()  # another thread may have had it, which is not here
    for one in list(_watched):
        one._leave_to_parent()
