"""What both faces of the engine share: the directory, its names, and who is left to whom."""

import os
import weakref
from collections.abc import Iterable

from holdfast.control import Control
from holdfast.coordinator import Coordinator
from holdfast.forks import watch
from holdfast.formats.errors import (
    InvalidName,
    StoreExists,
    StoreNotFound,
    WrongKind,
    from_os_error,
)
from holdfast.handles.fold import absolute
from holdfast.options import EngineOptions, store_spec
from holdfast.workers.disk import OsDisk
from holdfast.workers.message import Durability
from holdfast.workers.messages import (
    Kind,
    Options,
    StoreHealth,
    StoreSpec,
)
from holdfast.workers.places import Places, check_name, split_store


class EngineBase:
    """What both faces of the engine share."""

    def __init__(self, places: Places, options: EngineOptions) -> None:
        self._places = places
        self._coordinator = Coordinator(Control(places, options), options)
        # An engine that is dropped without close, with its handles, leaves all the same, at exit
        # at the latest.
        control = self._coordinator.control
        self._finalizer = weakref.finalize(self._coordinator, control.close)
        watch(self)

    @property
    def directory(self) -> str:
        """The directory, as an absolute path."""
        return self._places.directory

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.directory!r}>"

    def _stores(self, opened: Iterable[StoreHealth]) -> dict[str, str]:
        """Name and kind of the stores in the directory, and of the open ones that lie elsewhere."""
        here = (split_store(name) for name in self._files())
        elsewhere = (
            (store.name, store.kind)
            for store in opened
            if store.path != os.path.realpath(self._places.store(store.name, store.kind))
        )
        return dict(sorted({**dict(elsewhere), **dict(filter(None, here))}.items()))

    def _files(self) -> list[str]:
        """The names in the directory."""
        self._coordinator.control.check_open()
        try:
            return [name for name, _ in OsDisk().list(self.directory)]
        except OSError as error:
            raise from_os_error(error, "list", self.directory) from error

    def _spec(
        self,
        kind: Kind,
        name: str,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        *,
        import_from: str | None = None,
        create: bool = True,
        options: Options | None = None,
    ) -> StoreSpec:
        """A checked description of a store."""
        check_name(name)
        if path is None:
            self._check_free(name, kind)
        where = self._places.store(name, kind) if path is None else absolute(path)
        return store_spec(
            kind, name, where, durability, interval,
            import_from=import_from, create=create, options=options,
            by_name=path is None and not os.path.exists(where),
        )  # fmt: skip

    def _path_of(self, name: str) -> str:
        """Where a new vector store of this name would lie. Raises ``StoreExists`` if one does."""
        path = self._spec("vectors", name).path
        if os.path.exists(path):
            raise StoreExists(f"store {name!r} exists", store=name, path=path)
        return path

    def _check_free(self, name: str, kind: Kind) -> None:
        """Refuse a name that another kind of store has, or one that differs in case alone."""
        for file_name in self._files():
            store = split_store(file_name)
            if store is None or store == (name, kind):
                continue
            held, held_kind = store
            if held == name:
                raise WrongKind(f"store {name!r} is a {held_kind}, not a {kind}", store=name)
            if held.casefold() == name.casefold():
                raise InvalidName(
                    f"{name!r} differs from the store {held!r} in case alone, which some file "
                    "systems cannot tell apart",
                    store=name,
                )

    def _spec_of(self, name: str, opened: Iterable[StoreHealth] = ()) -> StoreSpec:
        """The description of a store that is in the directory, or open. ``StoreNotFound``."""
        check_name(name)
        for file_name in self._files():
            found = split_store(file_name)
            if found is not None and found[0] == name:
                return self._spec(found[1], name, create=False)
        for store in opened:
            if store.name == name:
                return self._spec(store.kind, name, store.path, create=False)
        raise StoreNotFound(f"there is no store {name!r} in {self.directory!r}", store=name)

    def _leave_to_parent(self) -> None:
        self._coordinator.leave_to_parent()


def dropped_unread(spec: StoreSpec) -> bool:
    """Drop a store that no worker could open; False if what lies there is no such store."""
    from holdfast.workers.removal import remove_unread

    return remove_unread(OsDisk(), spec.kind, spec.path)
