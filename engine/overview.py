"""What is in an engine's directory and who serves it, without changing either.

A running engine is joined and left again. Where none runs none is started: the files are read
instead, as ``holdfast inspect`` does.
"""

import contextlib
import os
from collections.abc import Mapping

from msgspec import structs

from holdfast.engine import Engine, open_engine
from holdfast.formats.errors import HoldfastError
from holdfast.handles.any_store import AnyStore
from holdfast.workers.disk import OsDisk
from holdfast.workers.fold_messages import Status
from holdfast.workers.inspection import examine
from holdfast.workers.messages import StoreHealth
from holdfast.workers.places import Places, split_store
from holdfast.workers.warm_messages import WarmStatus

_ANSWER_S = 10.0
# What figures of a column are called, which differs with the kind of store.
_NAMES = {
    "entries": ("entries", "live_rows", "points", "artifacts"),
    "bytes": ("bytes", "file_bytes", "log_bytes"),
}


def overview(places: Places) -> dict[str, object]:
    """Stores and processes, as ``holdfast stat --json`` prints them."""
    found: dict[str, object] = {"directory": places.directory}
    if not is_served(places):
        stores = _stores_at_rest(places, set())
        return found | {"running": False, "stores": stores, "processes": []}
    with open_engine(places.directory, timeout=_ANSWER_S, allow_network_fs=True) as engine:
        return found | _served(engine)


def is_served(places: Places) -> bool:
    """Whether a supervisor holds the directory's lock; asking leaves nothing behind.

    The lock is tried on the file that is there, since taking it properly would make that file. A
    host that wants the lock in the same instant just tries again.
    """
    disk = OsDisk()
    try:
        file = disk.open(places.lock)
    except FileNotFoundError:
        return False
    with contextlib.closing(file):
        return not file.lock()


def _served(engine: Engine) -> dict[str, object]:
    """What a running engine says; of stores that nobody has open, what their files say."""
    health = engine.health()
    stores = [_figures(engine, store) for store in health]
    stores += _stores_at_rest(Places(engine.directory), {store.path for store in health})
    processes = [
        {"role": process.role, "store": process.store, "pid": process.pid}
        for process in engine.processes()
    ]
    return {"running": True, "stores": stores, "processes": processes}


def _figures(engine: Engine, store: StoreHealth) -> dict[str, object]:
    figures: dict[str, object] = {
        "name": store.name,
        "kind": store.kind,
        "path": store.path,
        "state": store.state,
        "pid": store.pid,
        "restarts": store.restarts,
        "last_exit": store.last_exit,
    }
    if store.state == "running":
        try:
            spec = engine._spec(store.kind, store.name, store.path, create=False)
            status = AnyStore(engine._coordinator, spec).status()
            figures |= structs.asdict(status)
            if isinstance(status, Status):
                figures["cursor"] = status.cursor.token.hex()
            elif isinstance(status, WarmStatus):
                figures["bytes"] = status.live_bytes + status.dead_bytes + status.log_bytes
        except HoldfastError as error:
            return figures | {"reason": str(error)}
    return figures


def _stores_at_rest(places: Places, served: set[str]) -> list[dict[str, object]]:
    stores: list[dict[str, object]] = []
    disk = OsDisk()
    for file_name, _ in disk.list(places.directory):
        store = split_store(file_name)
        path = os.path.realpath(os.path.join(places.directory, file_name))
        if store is None or path in served:
            continue
        name, kind = store
        found: dict[str, object] = {"name": name, "kind": kind, "path": path, "state": "closed"}
        if kind in ("fold", "vectors", "index", "warm", "registry"):
            try:
                found |= examine(disk, path).figures()
            except HoldfastError as error:
                found["reason"] = str(error)
        stores.append(found)
    return stores


def show_overview(found: Mapping[str, object]) -> None:
    """Print what ``overview`` found as tables."""
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    box = HEAVY_HEAD if console.is_terminal else None
    if box is None:  # plain lines, however long
        console.width = 1000
    stores = Table("name", "kind", "state", "entries", "bytes", "cursor", "path", box=box)
    processes = Table("role", "store", "pid", box=box)
    for table, columns, rows in (
        (stores, ("name", "kind", "state", "entries", "bytes", "cursor", "path"), "stores"),
        (processes, ("role", "store", "pid"), "processes"),
    ):
        listed = found[rows]
        assert isinstance(listed, list)
        for row in listed:
            state = {"state": row["verdict"]} if row.get("verdict", "clean") != "clean" else {}
            cells = {**row, **state}
            table.add_row(*(_cell(cells, column) for column in columns))
        console.print(table if listed else f"no {rows}")


def _cell(cells: Mapping[str, object], column: str) -> str:
    names = _NAMES.get(column, (column,))
    value = next((cells[name] for name in names if name in cells), None)
    return "-" if value in (None, "") else str(value)
