"""The checker of histories: it passes what may have been, and refuses each way of being wrong."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.drill.history import (
    NEVER,
    Act,
    Ended,
    Fault,
    Invoked,
    Outcome,
    Recorder,
    Value,
    check,
    join,
    read_histories,
)
from holdfast.bench.drill.narrowing import narrowed, told

KEYS = ("a", "b", "c")


def write(
    start: float,
    end: float,
    value: Value,
    client: str = "w",
    outcome: Outcome = "acknowledged",
    keys: tuple[str, ...] = ("k",),
) -> Act:
    """A write of one value to all keys."""
    return Act(client, int(10 * start), keys, True, start, end, outcome, (value,) * len(keys))


def read(
    start: float, end: float, *values: Value, client: str = "r", keys: tuple[str, ...] = ("k",)
) -> Act:
    """A read that was answered."""
    return Act(client, int(10 * start), keys, False, start, end, "acknowledged", values)


def faults(*acts: Act, prefixes: bool = False) -> set[Fault]:
    """What the checker finds."""
    return {wrong.fault for wrong in check(acts, prefixes=prefixes)}


class TestWhatIsRefused:
    """One example of each way to be wrong, named as what it is."""

    def test_an_acknowledged_write_that_is_not_there(self) -> None:
        """Nothing, or the value before it, after a write was acknowledged: lost."""
        assert faults(write(0, 1, "x"), read(2, 3, None)) == {"lost"}
        assert faults(write(0, 1, "x"), write(2, 3, "y"), read(4, 5, "x")) == {"lost"}

    def test_a_write_that_was_seen_and_is_gone(self) -> None:
        """A value that was found, of a write that was never acknowledged, may not vanish."""
        late = write(0, NEVER, "x", outcome="unknown")
        assert faults(late, read(2, 3, "x"), read(4, 5, None, client="s")) == {"lost"}

    def test_a_delete_that_did_not_last(self) -> None:
        """A value that is found again after its delete was acknowledged: the delete is lost."""
        assert faults(write(0, 1, "x"), write(2, 3, None), read(4, 5, "x")) == {"lost"}

    def test_a_value_that_comes_again(self) -> None:
        """A value found after another client found its successor: applied twice."""
        x, y = write(0, 1, "x"), write(2, 3, "y")
        assert faults(x, y, read(4, 5, "y", client="s"), read(6, 7, "x")) == {"twice"}
        between = write(0.5, NEVER, "y", outcome="unknown", client="v")
        assert faults(
            x, between, read(2, 3, "x"), read(4, 5, "y", client="s"), read(6, 7, "x")
        ) == {"twice"}

    def test_a_deleted_value_that_comes_again(self) -> None:
        """A value found after it was found deleted: applied twice."""
        acts = [write(0, 1, "x"), write(2, NEVER, None, outcome="unknown")]
        assert faults(*acts, read(4, 5, None, client="s"), read(6, 7, "x")) == {"twice"}

    def test_a_client_that_goes_back_in_time(self) -> None:
        """A client that found a value and then an older one."""
        x, y = write(0, 1, "x"), write(2, 3, "y")
        assert faults(x, y, read(4, 5, "y"), read(6, 7, "x")) == {"back"}
        assert faults(x, read(2, 3, "x"), read(4, 5, None)) == {"back"}

    def test_a_value_from_nowhere(self) -> None:
        """A value that nobody wrote, whose write failed, or whose write was yet to come."""
        assert faults(read(0, 1, "x")) == {"nowhere"}
        assert faults(write(0, 1, "x", outcome="failed"), read(2, 3, "x")) == {"nowhere"}
        assert faults(read(0, 1, "x"), write(2, 3, "x")) == {"nowhere"}

    def test_half_a_write(self) -> None:
        """Of a write to several keys a part is there, and what was there before beside it."""
        both = ("a", "b")
        old, new = write(0, 1, "x", keys=both), write(2, NEVER, "y", "v", "unknown", both)
        assert faults(old, new, read(4, 5, "y", "x", keys=both)) == {"half"}
        assert faults(new, read(4, 5, "y", None, keys=both)) == {"half"}

    def test_half_a_delete(self) -> None:
        """A delete of several keys that one of them survived."""
        both = ("a", "b")
        old, gone = write(0, 1, "x", keys=both), write(2, NEVER, None, "v", "unknown", both)
        assert faults(old, gone, read(4, 5, None, "x", keys=both)) == {"half"}

    def test_only_a_prefix_and_only_of_what_was_not_acknowledged(self) -> None:
        """With prefixes allowed the first keys of such a write may be there, and nothing else."""
        both = ("a", "b")
        old = write(0, 1, "x", keys=both)
        new = write(2, NEVER, "y", "v", "unknown", both)
        sure = write(2, 3, "y", "v", "acknowledged", both)
        assert faults(old, new, read(4, 5, "y", "x", keys=both), prefixes=True) == set()
        assert "half" in faults(old, new, read(4, 5, "x", "y", keys=both), prefixes=True)
        assert "half" in faults(old, sure, read(4, 5, "y", "x", keys=both), prefixes=True)


class TestWhatMayBe:
    def test_calls_at_the_same_time_may_take_effect_in_any_order(self) -> None:
        """Overlapping writes, and reads that overlap them."""
        x, y = write(0, 9, "x"), write(0, 9, "y", client="v")
        for first, second in (("x", "y"), ("y", "x")):
            assert faults(x, y, read(1, 2, first), read(3, 4, second)) == set()
        assert faults(write(0, 9, "x"), read(1, 2, None), read(3, 4, "x")) == set()

    def test_an_unanswered_call_may_have_happened_or_not(self) -> None:
        """A write or delete of unknown outcome may show late, or never."""
        x, y = write(0, 1, "x"), write(2, NEVER, "y", "v", "unknown")
        assert faults(x, y, read(4, 5, "x"), read(6, 7, "y")) == set()
        assert faults(x, y, read(4, 5, "x"), read(6, 7, "x")) == set()
        gone = write(2, NEVER, None, "v", "unknown")
        assert faults(x, gone, read(4, 5, "x"), read(6, 7, None)) == set()

    def test_a_later_write_to_one_key_is_no_half_write(self) -> None:
        """A key that another write changed since is no part that is missing."""
        both = ("a", "b")
        acts = [write(0, 1, "x", keys=both), write(2, 3, "y", keys=("b",))]
        assert faults(*acts, read(4, 5, "x", "y", keys=both)) == set()


def can_be_explained(acts: Sequence[Act]) -> bool:
    """Whether some order of acts on one key, that keeps to their times, explains every read."""

    def explains(order: Sequence[Act]) -> bool:
        held: Value = None
        for place, act in enumerate(order):
            if any(later.end < act.start for later in order[place + 1 :]):
                return False
            if act.writes:
                held = act.values[0]
            elif act.values[0] != held:
                return False
        return True

    sure = [act for act in acts if act.outcome != "unknown"]
    unsure = [act for act in acts if act.outcome == "unknown"]
    return any(
        explains(order)
        for count in range(len(unsure) + 1)
        for happened in itertools.combinations(unsure, count)
        for order in itertools.permutations([*sure, *happened])
    )


@st.composite
def any_acts(draw: st.DrawFn, *, deletes: bool) -> list[Act]:
    """A few acts on one key, at any times, that found anything."""
    values = ["x", "y", "z"][: draw(st.integers(1, 3))]
    times = st.integers(0, 12)
    acts = []
    writes: list[Value] = list(values)
    if deletes:
        writes += [None] * draw(st.integers(0, 2))
    for number, value in enumerate(writes):
        start = draw(times)
        sure = draw(st.booleans())
        end = start + draw(st.integers(1, 6)) - 0.5 if sure else NEVER
        outcome: Outcome = "acknowledged" if sure else "unknown"
        acts.append(Act(f"w{number}", 1, ("k",), True, start, end, outcome, (value,)))
    for number in range(draw(st.integers(1, 6 - len(writes)))):
        start = draw(times)
        found = draw(st.sampled_from([None, *values]))
        end = start + draw(st.integers(1, 6)) - 0.5
        acts.append(Act(f"r{number}", 1, ("k",), False, start, end, "acknowledged", (found,)))
    return acts


@given(any_acts(deletes=False))
def test_it_decides_as_trying_every_order_does(acts: list[Act]) -> None:
    """Without deletes a history is refused exactly if no order of its acts explains it."""
    assert (check(acts) == []) == can_be_explained(acts)


@given(any_acts(deletes=True))
def test_it_refuses_nothing_that_some_order_explains(acts: list[Act]) -> None:
    """With deletes as well, no history is refused that may have been."""
    if can_be_explained(acts):
        assert check(acts) == []


@st.composite
def right_histories(draw: st.DrawFn) -> list[Act]:
    """What three clients see of a store that does all it should, now and then without an answer."""
    count = draw(st.integers(4, 24))
    clients = [draw(st.integers(0, 2)) for _ in range(count)]
    held: dict[str, Value] = dict.fromkeys(KEYS)
    acts = []
    for moment, client in enumerate(clients):
        # The act takes effect at its moment; it is called and answered some time around it.
        previous = max((m for m in range(moment) if clients[m] == client), default=-1)
        following = min(
            (m for m in range(moment + 1, count) if clients[m] == client), default=count
        )
        start = moment - draw(st.floats(0.01, 0.49)) * (moment - previous)
        end = moment + draw(st.floats(0.01, 0.49)) * (following - moment)
        what = draw(st.sampled_from(["write", "read", "read", "delete", "unanswered", "lost call"]))
        values: tuple[Value, ...] = (None if what == "delete" else f"{client}.{moment}",) * 3
        if what == "read":
            values = tuple(held[key] for key in KEYS)
        elif what != "lost call":
            held.update(dict.fromkeys(KEYS, values[0]))
        answered = what not in ("unanswered", "lost call")
        acts.append(
            Act(
                f"c{client}", moment, KEYS, what != "read", start, end if answered else NEVER,
                "acknowledged" if answered else "unknown", values,
            )
        )  # fmt: skip
    return acts


@given(right_histories(), st.booleans())
def test_nothing_is_wrong_with_a_store_that_does_all_it_should(
    acts: list[Act], prefixes: bool
) -> None:
    """However calls overlap and answers get lost, a right history is let pass."""
    assert check(acts, prefixes=prefixes) == []


def overwritten(acts: list[Act]) -> list[Value]:
    """Values in whose place something came for sure, and for good."""
    writes = [act for act in acts if act.writes]
    return [
        old.values[0] for old in writes
        if old.values[0] is not None
        and any(new.start > old.end for new in writes if new.outcome == "acknowledged")
    ]  # fmt: skip


@given(right_histories(), st.data())
def test_a_planted_fault_is_found(acts: list[Act], data: st.DataObject) -> None:
    """One wrong answer after a right history is refused, whatever calls had no answer."""
    old = overwritten(acts)
    wrong: list[tuple[Value, ...]] = [(value,) * 3 for value in old]
    wrong += [("nobody's",) * 3]
    written = [act.values[0] for act in acts if act.writes]
    wrong += [(first, first, other) for first in written for other in written if first != other]
    end = len(acts) + 1.0
    last = Act(
        "last", 1, KEYS, False, end, end + 1, "acknowledged", data.draw(st.sampled_from(wrong))
    )
    assert check([*acts, last])


class TestRecords:
    def test_what_was_written_down_is_read_again(self, tmp_path: Path) -> None:
        """Calls, answers and what had no answer come back from a client's file."""
        path = tmp_path / "c.history"
        recorder = Recorder(str(path), "c")
        first = recorder.invoked(("a", "b"), ("x", None))
        recorder.ended(first, "acknowledged")
        second = recorder.invoked(("a",))
        recorder.ended(second, "acknowledged", ("x",))
        third = recorder.invoked(("a",), ("y",))
        recorder.ended(third, "unknown", error="CallTimeout: late")
        recorder.invoked(("b",), ("z",))
        recorder.close()
        acts = read_histories([path])
        assert [act.writes for act in acts] == [True, False, True, True]
        assert [act.values for act in acts] == [("x", None), ("x",), ("y",), ("z",)]
        assert [act.outcome for act in acts] == [
            "acknowledged", "acknowledged", "unknown", "unknown",
        ]  # fmt: skip
        assert [act.end == NEVER for act in acts] == [False, False, True, True]
        assert acts[2].error == "CallTimeout: late"
        assert acts[0].start <= acts[0].end <= acts[1].start

    def test_a_line_cut_short_is_a_call_without_an_answer(self, tmp_path: Path) -> None:
        """A client that was killed while it wrote an answer down has not had it."""
        path = tmp_path / "c.history"
        recorder = Recorder(str(path), "c")
        recorder.ended(recorder.invoked(("a",), ("x",)), "acknowledged")
        recorder.close()
        path.write_bytes(path.read_bytes()[:-5])
        assert [act.outcome for act in read_histories([path])] == ["unknown"]

    def test_a_value_written_twice_is_the_client_s_mistake(self) -> None:
        """The checker needs each value to have one write, and says so."""
        with pytest.raises(AssertionError, match="written before"):
            check([write(0, 1, "x"), write(2, 3, "x")])

    def test_answers_go_to_their_calls(self) -> None:
        """Answers of several clients in one stream are told apart."""
        lines: list[Invoked | Ended] = [
            Invoked("a", 1, 0.0, ("k",), ("x",)),
            Invoked("b", 1, 0.5, ("k",), None),
            Ended("b", 1, 1.0, "acknowledged", ("x",)),
            Ended("a", 1, 2.0, "acknowledged"),
        ]
        acts = {act.client: act for act in join(lines)}
        assert (acts["a"].end, acts["b"].end) == (2.0, 1.0)
        assert acts["b"].values == ("x",)


def test_a_history_is_narrowed_to_what_cannot_be() -> None:
    """Of hundreds of acts the two or three remain that contradict each other, in order of time."""
    noise = [
        act for n in range(100)
        for act in (write(10 * n, 10 * n + 1, f"v{n}"), read(10 * n + 2, 10 * n + 3, f"v{n}"))
    ]  # fmt: skip
    for wrong_one in (read(2000, 2001, "v98"), read(2000, 2001, None)):
        history = [*noise, wrong_one, write(0, 1, "other", keys=("unconcerned",))]
        (wrong,) = check(history)
        fewest = narrowed(history, wrong, prefixes=False)
        assert [one.fault for one in check(fewest)] == [wrong.fault]
        assert 2 <= len(fewest) <= 4
        assert fewest[-1] is wrong_one
        for place in range(len(fewest)):
            fewer = fewest[:place] + fewest[place + 1 :]
            assert wrong.fault not in {one.fault for one in check(fewer)}
    assert told(fewest)[0].endswith("from 0.000 to 1000.000 ms: acknowledged")


def test_an_unanswered_act_is_told_as_such() -> None:
    """A call that was never answered is shown as ending never."""
    (line,) = told([write(0, NEVER, "x", outcome="unknown")])
    assert line == "w writes k='x' from 0.000 to never ms: unknown"
