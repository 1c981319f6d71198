"""What pytest-benchmark would end with a traceback for, in one line."""

from collections.abc import Generator

import pytest
from pytest_benchmark.session import PerformanceRegression
from pytest_benchmark.utils import get_machine_id, load_storage


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse to compare with figures that are not there, before anything is measured."""
    wanted: str | bool | None = config.getoption("benchmark_compare")
    if not wanted:
        return
    where: str = config.getoption("benchmark_storage")
    machine: str = get_machine_id()  # type: ignore[no-untyped-call]  # the plugin has no types
    storage = load_storage(where, netrc=None, logger=None, default_machine_id=machine)  # type: ignore[no-untyped-call]  # as above
    # The pattern is that of the plugin itself where none is given.
    if not storage.query("[0-9][0-9][0-9][0-9]_" if wanted is True else wanted):
        which = "" if wanted is True else f" {wanted!r}"
        raise pytest.UsageError(
            f"no figures{which} of this machine and Python to compare with are kept in "
            f"{storage.path}: 'make bench' measures and keeps them"
        )


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary() -> Generator[None, object, object]:
    """End with exit code 1 where something has become slower; it is listed by then."""
    try:
        return (yield)
    except PerformanceRegression as slower:
        pytest.exit(str(slower), returncode=1)
