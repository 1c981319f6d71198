"""A program that uses a store of an engine: ``python -m holdfast.bench.drill.host DIRECTORY ...``.

Drills start it, and have it end in one way or another. It says ``ready`` once it has written
something, waits for a line, and does then what ``way`` says:

``close``   ends its client, has the store write its files anew, and closes the engine
``exit``    leaves the program while its client is in the middle of calls
``fork``    forks; both processes go on with clients of their own, then both end
``exec``    replaces itself by another program that opens the same store
``main``    does not wait for a line: its client works in the main thread, until it is interrupted
"""

import os
import sys
import threading

import msgspec
from msgspec import structs

import holdfast
from holdfast.bench.drill.clients import Client, Crowd, groups_of
from holdfast.bench.drill.history import Recorder
from holdfast.bench.drill.live_stores import LiveStore, open_store
from holdfast.bench.drill.plan import StoreKind


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What one such program does, as its arguments say."""

    directory: str
    kind: StoreKind
    name: str
    way: str
    history: str
    client: str
    group: int
    seed: int

    def arguments(self) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", __spec__.name, *map(str, structs.astuple(self))]


def beside(history: str, suffix: str) -> str:
    """Where the history of a client's successor lies."""
    base, extension = os.path.splitext(history)
    return base + suffix + extension


def _client(part: Part, store: LiveStore, suffix: str = "") -> Client:
    recorder = Recorder(beside(part.history, suffix), part.client + suffix)
    return Client(store, recorder, groups_of(part.group), part.seed)


def _work(part: Part) -> None:
    engine = holdfast.open(part.directory)
    store = open_store(part.kind, engine, part.name)
    client = _client(part, store)
    crowd = Crowd([client])
    if part.way == "main":
        threading.Thread(target=_say_when_ready, args=(crowd,), daemon=True).start()
        client.run()
        return
    crowd.start()
    _say_when_ready(crowd)
    sys.stdin.readline()
    if part.way == "exit":
        return
    if part.way == "fork":
        _fork(part, store)
    crowd.got_on()
    crowd.stop()
    if part.way == "exec":
        following = structs.replace(
            part, way="close", history=beside(part.history, "x"), client=part.client + "x"
        )
        os.execv(sys.executable, following.arguments())
    store.tidy()
    engine.close()
    print("done", flush=True)


def _say_when_ready(crowd: Crowd) -> None:
    crowd.got_on()
    print("ready", flush=True)


def _fork(part: Part, store: LiveStore) -> None:
    """Work in a child as well, with the handle that it inherited."""
    child = os.fork()
    if child == 0:
        crowd = Crowd([_client(part, store, "f")])
        crowd.start()
        crowd.got_on()
        crowd.stop()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the forked child ended with status {status}")


if __name__ == "__main__":
    _work(msgspec.convert(sys.argv[1:], Part, strict=False))
