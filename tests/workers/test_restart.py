"""When a dead worker is started again."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.limits import BACKOFF_FIRST_S, BACKOFF_MAX_S, FRUITLESS_DEATHS_MAX
from holdfast.workers.restart import RestartBudget


def test_a_death_after_useful_work_restarts_at_once_however_often() -> None:
    """A worker that answered somebody is never put off or given up."""
    budget = RestartBudget()
    assert {budget.after_death(fruitful=True) for _ in range(1000)} == {0.0}


def test_fruitless_deaths_back_off_and_end() -> None:
    """The first restarts at once, the next ones wait ever longer, the last is given up."""
    budget = RestartBudget()
    delays = [budget.after_death(fruitful=False) for _ in range(FRUITLESS_DEATHS_MAX)]
    assert delays == [0.0, BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S, None]


def test_the_wait_is_bounded() -> None:
    """However many deaths are allowed, no single wait is longer than the longest allowed."""
    budget = RestartBudget(deaths_max=60)
    delays = [budget.after_death(fruitful=False) for _ in range(59)]
    assert max(delay for delay in delays if delay is not None) == BACKOFF_MAX_S


def test_useful_work_ends_a_row() -> None:
    """Only deaths in a row count: one useful life in between starts the count anew."""
    budget = RestartBudget()
    for _ in range(10):
        for _ in range(FRUITLESS_DEATHS_MAX - 1):
            assert budget.after_death(fruitful=False) is not None
        assert budget.after_death(fruitful=True) == 0.0


def test_forgiving_starts_the_count_anew() -> None:
    """A budget that was used up allows as many deaths again once forgiven."""
    budget = RestartBudget()
    for _ in range(FRUITLESS_DEATHS_MAX):
        budget.after_death(fruitful=False)
    budget.forgive()
    assert budget.after_death(fruitful=False) == 0.0


@given(st.lists(st.booleans()))
def test_it_gives_up_exactly_when_the_row_is_full(deaths: list[bool]) -> None:
    """For any sequence of deaths the answer depends on the length of the last row alone."""
    budget = RestartBudget()
    row = 0
    for fruitful in deaths:
        row = 0 if fruitful else row + 1
        delay = budget.after_death(fruitful=fruitful)
        assert (delay is None) == (row >= FRUITLESS_DEATHS_MAX)
        assert delay is None or 0.0 <= delay <= BACKOFF_MAX_S
        assert (delay == 0.0) == (row <= 1)
