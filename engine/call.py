"""One definition of each operation, for both faces; and the crash contract of one call.

An operation is a method that *describes* a call: which message to send and what to make of the
answer. ``operation`` turns it into a blocking method, ``awaitable`` turns that into a coroutine
method with the same parameters and result, so neither face can drift from the other.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, get_args

from holdfast.formats.errors import CallTimeout, InvalidArgument, WorkerCrashed
from holdfast.formats.limits import TRIES_PER_REQUEST_MAX
from holdfast.workers.messages import WRITES, Exit, Progress

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AnswerOutdated(Exception):
    """An answer refers to a file that is gone by now."""


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class Call(Generic[T_co]):
    """What to send, and what to make of the answer. ``timeout`` is in seconds, None: default.

    Arguments that are costly to check one by one are checked by the encoder and the worker;
    ``explain``, called when those object, raises the error that names the culprit.
    """

    message: object
    unwrap: Callable[[object], T_co]
    timeout: float | None = None
    progress: ProgressCallback | None = None
    explain: Callable[[], None] | None = None
    instead: "Callable[[], Call[T_co]] | None" = None
    """What to call in its place when ``unwrap`` raises ``AnswerOutdated``."""

    def __post_init__(self) -> None:
        if self.progress is not None and not callable(self.progress):
            raise InvalidArgument(f"progress is a function, not {type(self.progress).__name__}")

    def objection(self, error: Exception) -> InvalidArgument:
        """The clearest error for arguments that the encoder or the worker objected to."""
        if self.explain is not None:
            try:
                self.explain()
            except InvalidArgument as clearer:
                return clearer
        if isinstance(error, InvalidArgument):
            return error
        return InvalidArgument(f"cannot send {type(self.message).__name__}: {error}")


class Runner(Protocol):
    """Whatever runs calls and waits for the answer."""

    def _run(self, call: Call[T]) -> T: ...


class AsyncRunner(Protocol):
    """Whatever runs calls and awaits the answer."""

    async def _run(self, call: Call[T]) -> T: ...


R = TypeVar("R", bound=Runner)
A = TypeVar("A", bound=AsyncRunner)

_DESCRIBE = "__holdfast_describe__"


def operation(
    describe: Callable[Concatenate[R, P], Call[T]],
) -> Callable[Concatenate[R, P], T]:
    """A blocking method from a method that describes a call."""

    @functools.wraps(describe)
    def method(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(describe(self, *args, **kwargs))

    setattr(method, _DESCRIBE, describe)
    _show_result(method)
    return method


def awaitable(
    blocking: Callable[Concatenate[R, P], T],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """The same operation as a coroutine method."""
    describe = cast("Callable[Concatenate[A, P], Call[T]]", getattr(blocking, _DESCRIBE))

    @functools.wraps(describe)
    async def method(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(describe(self, *args, **kwargs))

    _show_result(method)
    return method


def _show_result(method: Callable[..., object]) -> None:
    """Have ``help`` show what the method returns; its description returns a ``Call`` of that."""
    (result,) = get_args(method.__annotations__["return"])
    signature = inspect.signature(method).replace(return_annotation=result)
    method.__annotations__ = {**method.__annotations__, "return": result}
    vars(method)["__signature__"] = signature


class CallPolicy:
    """What becomes of one request when workers die under it. Pure.

    A request goes to one worker after another until one answers, unless it was itself being worked
    on each time a worker died.
    """

    __slots__ = ("_client", "_killed", "_message", "_request", "_sent", "_store", "lost")

    def __init__(self, store: str, client: int, request: int, message: object) -> None:
        self._store = store
        self._client = client
        self._request = request
        self._message = message
        self._killed: dict[int, str] = {}
        self._sent = False
        self.lost = 0
        """Generation of the worker whose session broke last; 0 if none did."""

    @property
    def _name(self) -> str:
        return type(self._message).__name__

    @property
    def _write(self) -> bool:
        return isinstance(self._message, WRITES)

    def sending(self) -> None:
        """The request is about to leave: from here on a write may happen."""
        self._sent = True

    def session_lost(self, generation: int) -> None:
        """The session broke before the answer came."""
        self.lost = generation

    def learn(self, exits: Iterable[Exit]) -> None:
        """Take note of how workers ended; raises ``WorkerCrashed`` when this request did it."""
        for exit in exits:
            if (exit.client, exit.request) == (self._client, self._request):
                self._killed[exit.generation] = exit.cause
        if len(self._killed) < TRIES_PER_REQUEST_MAX:
            return
        cause = list(self._killed.values())[-1]
        raise WorkerCrashed(
            f"{self._name} on store {self._store!r} was being worked on each of the "
            f"{len(self._killed)} times its worker died, so it is not tried again. "
            f"Last cause: {cause}",
            store=self._store,
            request=self._name,
            cause=cause,
            may_have_happened=self._write,
        )

    def overtaken(self, error: CallTimeout, seconds: float) -> CallTimeout:
        """The error for a request that ``error`` says was not handled: by the worker asked last."""
        return self.timed_out(seconds) if self.lost else error

    def timed_out(self, seconds: float) -> CallTimeout:
        """The error for a deadline that passed."""
        unsure = self._write and self._sent
        outcome = "; the write may still take effect" if unsure else ""
        return CallTimeout(
            f"{self._name} on store {self._store!r} had no answer within {seconds:g} s{outcome}",
            store=self._store,
            may_have_happened=unsure,
        )
