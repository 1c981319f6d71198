"""What can be imported: every type that a user meets."""

import builtins
import dataclasses
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator

import msgspec
import pyarrow.dataset

import holdfast
import holdfast.aio

# Names in annotations that stand for something a checker alone sees.
_SEEN_BY_CHECKERS = {"Compression": str, "pyarrow": pyarrow}


def mentioned(hint: object) -> Iterator[type]:
    """The classes of ours in an annotation, also inside of others."""
    arguments = hint if isinstance(hint, list | tuple) else typing.get_args(hint)
    for argument in arguments:
        yield from mentioned(argument)
    if isinstance(hint, type) and not arguments and hint.__module__.startswith("holdfast"):
        yield hint


def hints(of: object) -> list[object]:
    """The annotations of a function or of the fields of a class."""
    names = {name: getattr(holdfast, name) for name in holdfast.__all__} | _SEEN_BY_CHECKERS
    found = typing.get_type_hints(of, localns=names)
    return [hint for name, hint in found.items() if not name.startswith("_")]


def annotations(face: type) -> Iterator[object]:
    """Whatever the public methods and properties of a class mention, and its fields."""
    has_fields = dataclasses.is_dataclass(face) or issubclass(face, msgspec.Struct | tuple)
    if has_fields or issubclass(face, holdfast.HoldfastError):
        yield from hints(face)
    for name in dir(face):
        member = inspect.getattr_static(face, name)
        function = member.fget if isinstance(member, property) else getattr(face, name)
        ours = (getattr(function, "__module__", None) or "").startswith("holdfast")
        if callable(function) and ours and not name.startswith("_"):
            yield from hints(function)


def met() -> dict[type, str]:
    """Every class that a user meets, from what is exported on; and where."""
    found: dict[type, str] = {}
    waiting: list[tuple[type, str]] = []
    for name in holdfast.__all__:
        exported = getattr(holdfast, name)
        if isinstance(exported, type):
            waiting.append((exported, "holdfast"))
        elif callable(exported):
            waiting += [(kind, name) for hint in hints(exported) for kind in mentioned(hint)]
    while waiting:
        face, where = waiting.pop()
        if face not in found:
            found[face] = where
            waiting += [
                (kind, face.__name__) for hint in annotations(face) for kind in mentioned(hint)
            ]
    return found


def test_every_type_a_user_meets_can_be_imported() -> None:
    """What a public signature or a field of a result mentions is in ``holdfast`` by its name."""
    types = met()
    assert {holdfast.KvEntry, holdfast.WarmStatus, holdfast.SnapshotInfo} <= set(types)
    missing = {
        f"{kind.__module__}.{kind.__name__}, of {where}"
        for kind, where in types.items()
        if getattr(holdfast, kind.__name__, None) is not kind
    }
    assert missing == set()


def test_names_are_told_in_order() -> None:
    """Each exported name is there, once, and sorted."""
    assert list(holdfast.__all__) == sorted(set(holdfast.__all__))
    assert all(hasattr(holdfast, name) for name in holdfast.__all__)


def test_the_asyncio_module_has_every_handle() -> None:
    """All handles of ``holdfast.aio`` can be imported from it."""
    for name in ("Engine", "Fold", "Vectors", "Warm", "Index", "Registry"):
        assert getattr(holdfast.aio, f"Async{name}") is getattr(holdfast, f"Async{name}")
        assert f"Async{name}" in holdfast.aio.__all__


def test_a_star_hides_no_builtin() -> None:
    """``from holdfast import *`` leaves ``open`` what it was; ``holdfast.open`` is there."""
    for module in (holdfast, holdfast.aio):
        assert not set(module.__all__) & set(dir(builtins))
        assert callable(module.open)


def test_what_is_loaded_late_is_loaded_late() -> None:
    """Importing the package or its asyncio module loads neither numpy nor pyarrow."""
    script = "import sys, holdfast.aio; print({'numpy', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"set()\n"
