"""The sessions of one store, shared by many callers."""

import threading
import time
from typing import cast

import pytest

from holdfast.control import Control
from holdfast.coordinator import Pool
from holdfast.session import DeadlinePassed, Session
from holdfast.workers.messages import StoreSpec


class Unlucky(threading.Condition):
    """Whoever waits first is woken, but at the very moment at which its patience ends."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting += 1
        first = self.waiting == 1
        return super().wait(timeout) and not first


def test_a_notice_that_comes_too_late_for_one_wakes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody sleeps beside an idle session because somebody else was told of it."""
    monkeypatch.setattr("holdfast.coordinator.SESSIONS_PER_STORE_MAX", 0)
    pool = Pool(cast(Control, None), StoreSpec("a", "fold", "/d/a.snap"), 30.0)
    condition = pool._freed = Unlucky()
    session = cast(Session, object())
    ends: list[object] = []

    def call() -> None:
        try:
            ends.append(pool.take(0, time.monotonic() + 3600.0))
        except DeadlinePassed as error:
            ends.append(error)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(2)]
    for number, caller in enumerate(callers):
        caller.start()
        while condition.waiting <= number:
            time.sleep(0.001)
    with condition:  # so that both have gone to sleep
        pass
    monkeypatch.setattr(pool, "_let_go_of_unused", lambda _: None)
    pool.give_back(session)
    for caller in callers:
        caller.join(30)
    assert [type(end) for end in ends] == [DeadlinePassed, object]
    assert ends[1] is session
