"""The supervisor process: ``python -m holdfast.workers.supervisor DIRECTORY LOCK LISTENER HOST``.

It is started by the first host with the directory's lock and a listening socket already in hand
(as descriptors), keeps the table of workers, and goes when the last host has gone. What to do is
decided by ``supervision.py``; this module owns the sockets and the processes.
"""

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass

import msgspec
import setproctitle

from holdfast.formats.errors import (
    EngineUnavailable,
    HoldfastError,
    ProtocolError,
    from_os_error,
)
from holdfast.formats.frame import WIRE_VERSION, FrameKind
from holdfast.workers import messages, supervision
from holdfast.workers.channel import Channel, Frame
from holdfast.workers.disk import OsDisk, OsFile, remove_if_there
from holdfast.workers.launcher import WorkerProcess
from holdfast.workers.lock import Lock, describe_self
from holdfast.workers.messages import Exit, Failure
from holdfast.workers.places import Places
from holdfast.workers.platform import allow_descriptors, peer_user
from holdfast.workers.supervision import Asker, Effect, Supervision
from holdfast.workers.waiting import at_a_time

_FIRST_HOST_S = 10.0
_BACKLOG_S = 0.01
_DEAF_S = 0.5  # without a descriptor for the next host
_STOP_S = 1.5  # after the last host left; "nothing is left 2 s later" includes the kill
_SAVE_S = 30.0  # for a worker that is at its last sync then

_decode_ask = msgspec.msgpack.Decoder(messages.Ask).decode
_decode_report = msgspec.msgpack.Decoder(messages.Report).decode
log = logging.getLogger("holdfast.supervisor")


@dataclass(eq=False, slots=True)
class Host:
    """A host process, by its control connection."""

    number: int
    channel: Channel
    client: int = 0  # 0 until it has said hello


class Supervisor:
    """The loop around the table."""

    def __init__(self, places: Places, lock: Lock, listener: socket.socket) -> None:
        self._places = places
        self._lock = lock
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._hosts: dict[int, Host] = {}
        self._workers: dict[str, WorkerProcess] = {}
        self._numbers = 0
        self._table = Supervision(time.time_ns(), self._progress_of)
        self._leave_at = time.monotonic() + _FIRST_HOST_S
        self._kill_at = self._leave_at + _STOP_S
        self._parted: list[Channel] = []
        self._deaf_until: float | None = None
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serve until the last host has gone and every worker has stopped."""
        while True:
            now = time.monotonic()
            self._perform(self._table.tick(now))
            if self._hosts:
                self._close_parted()
            elif now >= self._leave_at and self._wind_down(now):
                return
            if self._deaf_until is not None and now >= self._deaf_until:
                self._deaf_until = None
                self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            for key, _ in self._selector.select(self._patience(now)):
                key.data()
            self._flush_backlogs()

    def _patience(self, now: float) -> float | None:
        moments = []
        tick = self._table.next_tick()
        if tick is not None:
            moments.append(tick)
        if not self._hosts:
            moments.append(self._leave_at if now < self._leave_at else self._kill_at)
        if self._deaf_until is not None:
            moments.append(self._deaf_until)
        if any(channel.backlog for channel in self._channels()):
            moments.append(now + _BACKLOG_S)
        return at_a_time(max(0.0, min(moments) - now)) if moments else None

    def _wind_down(self, now: float) -> bool:
        """With no host left: stop the workers, then end. True when it is time to go."""
        self._perform(self._table.stop_all())
        if not self._workers:
            # Nobody finds the socket from here on; whoever connected before meets the end of the
            # connection and starts the next supervisor.
            remove_if_there(OsDisk(), self._places.socket)
            return True
        if now >= self._kill_at:
            self._kill_at = now + _STOP_S
            self._lose_patience(now)
        return False

    def _lose_patience(self, now: float) -> None:
        """Kill the workers that do not stop, but let those go on that are syncing what they have.

        A disk may take long for that. Whoever waits for our end is told, and so waits on.
        """
        for name, worker in self._workers.items():
            if worker.vitals.read().saving and now < self._leave_at + _SAVE_S:
                log.info("store %s is still being synced", name)
            else:
                log.warning("the worker of store %s did not stop in time and is killed", name)
                worker.kill("did not stop in time")

    def _channels(self) -> list[Channel]:
        hosts = [host.channel for host in self._hosts.values()]
        return hosts + [worker.control for worker in self._workers.values()]

    def _flush_backlogs(self) -> None:
        for channel in self._channels():
            if channel.backlog:
                with contextlib.suppress(OSError):  # its end is noticed by reading
                    channel.flush()

    def _close_parted(self) -> None:
        """Let go of those who wait for the end of a supervisor that goes on for others."""
        for channel in self._parted:
            channel.close()
        self._parted.clear()

    # --- hosts -----------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # it waits in the queue, which would wake us again at once
            log.warning("cannot take a host in now: %s", error)
            self._selector.unregister(self._listener)
            self._deaf_until = time.monotonic() + _DEAF_S
            return
        if peer_user(sock) not in (os.getuid(), 0):
            log.warning("refused a connection of user %d", peer_user(sock))
            sock.close()
            return
        sock.setblocking(False)
        self._numbers += 1
        host = Host(self._numbers, Channel(sock))
        self._hosts[host.number] = host
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._hear_host(host))

    def _hear_host(self, host: Host) -> None:
        if host.number not in self._hosts:
            return  # it left earlier in this turn
        try:
            alive = host.channel.receive()
        except BlockingIOError:
            return
        except OSError as error:
            self._close(host, error)
            return
        # Not what it asks after leaving: nobody would wait for that, and so nobody end it.
        while host.number in self._hosts:
            try:
                frame = host.channel.next()
                ask = None if frame is None else _decode_ask(frame.body)
            except (ProtocolError, msgspec.MsgspecError) as error:
                self._close(host, error)
                return
            if frame is None or ask is None:
                break
            self._answer_to(host, Asker(host.number, frame.header.request), ask)
        if not alive:
            self._part(host)

    def _close(self, host: Host, error: Exception) -> None:
        log.warning("closing a host's connection: %s", error)
        self._part(host)

    def _answer_to(self, host: Host, asker: Asker, ask: messages.Ask) -> None:
        try:
            self._take_ask(host, asker, ask)
        except Exception as error:
            # A defect, of which this supervisor ends: the next one is not to be asked the same.
            failure = Failure.of(error, traceback.format_exc())
            self._tell(asker, FrameKind.ERROR, failure, ())
            raise

    def _take_ask(self, host: Host, asker: Asker, ask: messages.Ask) -> None:
        table = self._table
        match ask:
            case messages.Hello():
                self._greet(host, asker, ask)
            case messages.OpenStore():
                self._perform(table.open_asked(asker, ask, time.monotonic()))
            case messages.Suspect(name=name, generation=generation, hung_after_s=seconds):
                self._perform(table.suspected(name, generation, seconds, time.monotonic()))
                self._answer(asker, messages.Accepted())
            case messages.AskProcesses():
                self._answer(asker, table.processes(os.getpid()))
            case messages.AskHealth():
                self._answer(asker, table.health())
            case messages.RestartStore():
                self._perform(table.restart_asked(asker, ask))
            case messages.DropStore():
                self._perform(table.drop_asked(asker, ask))
            case messages.Leave():
                self._part(host, when_over=True)

    def _greet(self, host: Host, asker: Asker, hello: messages.Hello) -> None:
        if hello.wire_version != WIRE_VERSION:
            self._refuse(
                asker,
                EngineUnavailable(
                    f"this directory is served by another release (wire version {WIRE_VERSION}, "
                    f"yours is {hello.wire_version}); close the other hosts first"
                ),
            )
            return
        host.client = hello.client
        self._answer(asker, messages.Welcome(os.getpid()))

    def _part(self, host: Host, *, when_over: bool = False) -> None:
        """A host leaves. ``when_over`` tells it by the end of the connection that all is over."""
        if self._hosts.pop(host.number, None) is None:
            return
        self._selector.unregister(host.channel.sock)
        self._table.host_left(host.number)
        if when_over:
            self._parted.append(host.channel)
        else:
            host.channel.close()
        if not self._hosts:
            self._leave_at = time.monotonic()
            self._kill_at = self._leave_at + _STOP_S

    def _answer(self, asker: Asker, answer: object, *, descriptors: tuple[int, ...] = ()) -> None:
        self._tell(asker, FrameKind.REPLY, answer, descriptors)

    def _refuse(self, asker: Asker, error: HoldfastError) -> None:
        cause = error.__cause__
        failure = Failure.of(error, "" if cause is None else str(cause))
        self._tell(asker, FrameKind.ERROR, failure, ())

    def _tell(
        self, asker: Asker, kind: FrameKind, message: object, descriptors: tuple[int, ...]
    ) -> None:
        host = self._hosts.get(asker.host)
        if host is None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        try:
            host.channel.send(kind, message, asker.request, descriptors=descriptors)
        except OSError:
            self._part(host)

    # --- workers ---------------------------------------------------------------------------

    def _spawn(self, effect: supervision.Spawn) -> None:
        name = effect.spec.name
        try:
            worker = WorkerProcess(effect.spec, effect.generation, self._leave_to_child)
        except Exception as error:  # also whatever a module raises that does not load
            cause = f"it could not be started: {type(error).__name__}: {error}"
            log.warning("a worker of store %s: %s", name, cause)
            exit = Exit(effect.generation, cause)
            self._perform(self._table.worker_exited(name, exit, time.monotonic()))
            return
        self._workers[name] = worker
        self._table.worker_started(name, worker.pid)
        self._selector.register(
            worker.control.sock, selectors.EVENT_READ, lambda: self._hear_worker(name, worker)
        )
        self._selector.register(
            worker.sentinel, selectors.EVENT_READ, lambda: self._bury(name, worker)
        )

    def _leave_to_child(self) -> None:
        """In a forked worker: close what belongs to the supervisor alone."""
        self._selector.close()
        self._listener.close()
        self._lock.file.close()
        signal.set_wakeup_fd(-1)
        for channel in [*self._channels(), *self._parted]:
            channel.close()

    def _hear_worker(self, name: str, worker: WorkerProcess) -> None:
        if self._workers.get(name) is not worker:
            return  # it was buried earlier in this turn
        try:
            alive = worker.control.receive()
            while (frame := worker.control.next()) is not None:
                self._take_report(name, worker, frame)
        except BlockingIOError:
            return
        except OSError:  # it died before it read all its orders
            alive = False
        except (ProtocolError, msgspec.MsgspecError) as error:
            worker.kill(f"sent what is no message: {error}")
            alive = False
        if not alive:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(worker.control.sock)

    def _take_report(self, name: str, worker: WorkerProcess, frame: Frame) -> None:
        report = _decode_report(frame.body)
        match report:
            case messages.Ready(properties=properties):
                self._perform(self._table.worker_ready(name, properties))
            case messages.Refused(failure=failure):
                self._perform(self._table.worker_refused(name, failure.error()))
            case messages.Dying(failure=failure):
                worker.last_words = failure
            case messages.LogLine():
                self._broadcast(report)

    def _bury(self, name: str, worker: WorkerProcess) -> None:
        self._hear_worker(name, worker)  # its last words
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.control.sock)
        self._selector.unregister(worker.sentinel)
        if self._workers.get(name) is worker:
            del self._workers[name]
        pid, exit = worker.pid, worker.collect()
        effects = self._table.worker_exited(name, exit, time.monotonic())
        self._perform(effects)
        if any(isinstance(effect, supervision.Spawn) for effect in effects):
            log.warning("worker %d of store %s ended and is restarted: %s", pid, name, exit.cause)

    def _progress_of(self, name: str) -> int:
        worker = self._workers.get(name)
        return worker.vitals.read().progress if worker is not None else -1

    # --- effects ---------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case supervision.Spawn():
                    self._spawn(effect)
                case supervision.Grant():
                    self._grant(effect)
                case supervision.Reply(asker=asker, answer=answer):
                    self._answer(asker, answer)
                case supervision.Fail(asker=asker, error=error):
                    self._refuse(asker, error)
                case supervision.StopWorker(name=name, remove=remove):
                    self._order(name, messages.Stop(remove))
                case supervision.KillWorker(name=name, cause=cause):
                    if (worker := self._workers.get(name)) is not None:
                        worker.kill(cause)
                case supervision.Poke(name=name):
                    self._order(name, messages.Ping())

    def _grant(self, effect: supervision.Grant) -> None:
        if not effect.answer.session:
            self._answer(effect.asker, effect.answer)
            return
        host = self._hosts.get(effect.asker.host)
        if host is None:
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            doing = "have the supervisor make a session to"
            self._refuse(effect.asker, from_os_error(error, doing, effect.answer.spec.path))
            return
        self._order(effect.name, messages.Serve(host.client), (theirs.detach(),))
        self._answer(effect.asker, effect.answer, descriptors=(ours.detach(),))

    def _order(self, name: str, order: object, descriptors: tuple[int, ...] = ()) -> None:
        worker = self._workers.get(name)
        if worker is not None:
            # It may be dying: its end is noticed by the sentinel. Descriptors are the channel's to
            # close from here on, also those that did not get through.
            with contextlib.suppress(OSError):
                worker.control.send(FrameKind.REQUEST, order, descriptors=descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def _broadcast(self, line: messages.LogLine) -> None:
        for host in list(self._hosts.values()):
            if host.client and host.channel.backlog < 100:
                try:
                    host.channel.send(FrameKind.PROGRESS, line)
                except OSError:
                    self._part(host)
        for channel in self._parted:
            with contextlib.suppress(OSError):  # it does not wait any more
                channel.send(FrameKind.PROGRESS, line)

    def forward(self, record: logging.LogRecord) -> None:
        """Pass one of the supervisor's own log records to the hosts."""
        self._broadcast(
            messages.LogLine(
                record.name, record.levelno, record.getMessage(), record.created, os.getpid()
            )
        )

    def end_on_sigterm(self) -> None:
        """From now on SIGTERM ends the supervisor as if every host had left."""
        waker, woken = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.detach())
        signal.signal(signal.SIGTERM, lambda *_: None)  # the wake-up is what counts
        self._selector.register(woken, selectors.EVENT_READ, self._end)

    def _end(self) -> None:
        for host in list(self._hosts.values()):
            self._part(host)


class _Forwarder(logging.Handler):
    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(logging.INFO)
        self._supervisor = supervisor

    def emit(self, record: logging.LogRecord) -> None:
        self._supervisor.forward(record)


def main(directory: str, lock_descriptor: int, listener_descriptor: int, command: str) -> None:
    """Entry of the supervisor process."""
    if os.fork():
        os._exit(0)  # the host has no child to reap, and no signal comes to it
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a host that ignores it must not make us
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    allow_descriptors()  # every session takes one in its worker
    setproctitle.setproctitle(f"holdfast: supervisor of {directory}")
    sys.argv = [command]  # what locks are to say: our own arguments tell a user nothing
    places = Places(directory)
    file = OsFile(places.lock, lock_descriptor)
    file.truncate(0)
    file.append(msgspec.json.encode(describe_self(os.getpid())))
    lock = Lock(OsDisk(), places.lock, file)
    supervisor = Supervisor(places, lock, socket.socket(fileno=listener_descriptor))
    supervisor.end_on_sigterm()
    logger = logging.getLogger("holdfast")
    logger.addHandler(_Forwarder(supervisor))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    gc.collect()
    gc.freeze()  # so that collecting in a forked worker does not copy the supervisor's memory
    try:
        supervisor.run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    lock.release()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
