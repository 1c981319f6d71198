"""Where the files of failures stay: in a directory of their own, where the run was started."""

import os
import shutil
import tempfile
from collections.abc import Sequence

from msgspec import structs

from holdfast.bench.drill.tally import Failure


def settled(failures: Sequence[Failure], work: str, source: str | None = None) -> list[Failure]:
    """The same failures, what they keep below ``work`` moved to a new directory that stays.

    It is made in the working directory, or if that is in ``source``, which is not to be written to,
    among temporary files; where that cannot be, all stays where it is.
    ``work`` is removed once nothing is kept in it.
    """
    inside = {failure.state for failure in failures if _is_below(failure.state, work)}
    try:
        places = _moved(sorted(state for state in inside if state is not None), source)
    except OSError:
        return list(failures)
    shutil.rmtree(work, ignore_errors=True)
    return [
        structs.replace(failure, state=places.get(failure.state or "", failure.state))
        for failure in failures
    ]


def _is_below(state: str | None, work: str) -> bool:
    return state is not None and state.startswith(work + os.sep) and os.path.isdir(state)


def _moved(directories: Sequence[str], source: str | None) -> dict[str, str]:
    """Where copies of these directories are now."""
    if not directories:
        return {}
    here = os.path.realpath(os.getcwd())
    within = source is not None and os.path.commonpath([here, source]) == source
    base = tempfile.mkdtemp(prefix="holdfast-drill-", dir=None if within else here)
    places = {}
    for number, directory in enumerate(directories):
        name = f"{number}-{os.path.basename(directory)}"
        places[directory] = shutil.copytree(
            directory, os.path.join(base, name), symlinks=True, ignore=_no_files
        )
    return places


def _no_files(folder: str, names: list[str]) -> set[str]:
    """Sockets and the like, which cannot be copied."""
    paths = {name: os.path.join(folder, name) for name in names}
    return {
        name for name, path in paths.items()
        if not (os.path.isfile(path) or os.path.isdir(path) or os.path.islink(path))
    }  # fmt: skip
