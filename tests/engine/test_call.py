"""What becomes of one request when workers die under it."""

import pytest

from holdfast.call import Call, CallPolicy
from holdfast.formats.errors import InvalidArgument, LimitExceeded, WorkerCrashed
from holdfast.formats.limits import TRIES_PER_REQUEST_MAX
from holdfast.formats.values import Cursor
from holdfast.workers.fold_messages import (
    FoldApply,
    FoldCompact,
    FoldCursor,
    FoldExport,
    FoldGet,
    FoldGetMany,
    FoldRange,
    FoldScan,
    FoldStaleKeys,
)
from holdfast.workers.messages import Exit, StoreStatus

CLIENT, REQUEST = 77, 5
WRITE = FoldApply([], Cursor.none())
READ = FoldGet("k")
READS = [READ, FoldGetMany([]), FoldRange(""), FoldScan(""), FoldCursor(), FoldStaleKeys([]),
         StoreStatus()]  # fmt: skip
WRITES = [WRITE, FoldCompact(), FoldExport("/x")]


def policy(message: object = WRITE) -> CallPolicy:
    """The policy of one request."""
    return CallPolicy("a", CLIENT, REQUEST, message)


def death(generation: int, client: int = CLIENT, request: int = REQUEST) -> Exit:
    """A worker's end while it worked on somebody's request."""
    return Exit(generation, f"killed {generation}", client, request)


def test_it_remembers_which_worker_was_lost() -> None:
    """The generation whose session broke is not to be offered again."""
    p = policy()
    assert p.lost == 0
    p.session_lost(7)
    assert p.lost == 7


def test_a_session_may_break_any_number_of_times() -> None:
    """Deaths that this request did not cause never end its resending."""
    p = policy()
    for generation in range(100):
        p.sending()
        p.session_lost(generation)
        p.learn([death(generation, request=REQUEST + 1), Exit(generation, "killed")])


@pytest.mark.parametrize(
    "others", [(CLIENT, REQUEST + 1), (CLIENT + 1, REQUEST), (0, 0)], ids=["request", "client", "-"]
)
def test_only_the_same_client_and_request_count(others: tuple[int, int]) -> None:
    """Another request, or another host's request of the same number, is somebody else's poison."""
    p = policy()
    p.learn([death(1), *(death(g, *others) for g in range(2, 20))])


def test_the_same_death_seen_twice_counts_once() -> None:
    """Every grant repeats the exits so far."""
    p = policy()
    for _ in range(5):
        p.learn([death(1)])


def test_a_request_that_kills_as_often_as_allowed_is_not_tried_again() -> None:
    """The caller learns store, request, cause, and that the write may have happened."""
    p = policy()
    for generation in range(1, TRIES_PER_REQUEST_MAX):
        p.learn([death(generation)])
    with pytest.raises(WorkerCrashed) as caught:
        p.learn([death(g) for g in range(1, TRIES_PER_REQUEST_MAX + 1)])
    error = caught.value
    assert (error.store, error.request) == ("a", "FoldApply")
    assert error.cause == f"killed {TRIES_PER_REQUEST_MAX}"
    assert error.may_have_happened is True
    assert "killed" in str(error)


@pytest.mark.parametrize("message", READS, ids=lambda m: type(m).__name__)
def test_a_read_cannot_have_happened(message: object) -> None:
    """Reads change nothing, whether they crash or time out."""
    p = policy(message)
    p.sending()
    assert p.timed_out(1.0).may_have_happened is False
    with pytest.raises(WorkerCrashed) as caught:
        p.learn([death(1), death(2)])
    assert caught.value.may_have_happened is False


@pytest.mark.parametrize("message", WRITES, ids=lambda m: type(m).__name__)
def test_a_write_may_have_happened_once_it_was_sent(message: object) -> None:
    """Before it left, a timeout is certain to have changed nothing; afterwards nobody knows."""
    p = policy(message)
    before = p.timed_out(1.5)
    assert before.may_have_happened is False
    assert "1.5 s" in str(before)
    assert "may still" not in str(before)
    p.sending()
    after = p.timed_out(1.5)
    assert after.may_have_happened is True
    assert "may still take effect" in str(after)
    assert after.store == "a"


def test_an_objection_is_explained_by_the_caller_s_own_check() -> None:
    """The error that names the culprit is preferred to the worker's."""

    def explain() -> None:
        raise LimitExceeded("updates[3].key is too long")

    call = Call(WRITE, lambda reply: None, explain=explain)
    assert str(call.objection(InvalidArgument("malformed"))) == "updates[3].key is too long"


def test_an_objection_without_explanation_stays_an_invalid_argument() -> None:
    """A typed objection passes as it is; anything else becomes one, with the request's name."""
    for call in (
        Call(WRITE, lambda reply: None),
        Call(WRITE, lambda reply: None, explain=lambda: None),
    ):
        error = InvalidArgument("malformed")
        assert call.objection(error) is error
        other = call.objection(TypeError("no"))
        assert type(other) is InvalidArgument
        assert str(other) == "cannot send FoldApply: no"
