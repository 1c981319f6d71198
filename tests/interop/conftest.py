"""Both ways with the original's Node package. Only ``make interop`` collects these tests."""

from collections.abc import Iterator

import pytest

from tests.interop.original import PACKAGE, Original

collect_ignore_glob = [] if PACKAGE else ["test_*.py"]


@pytest.fixture
def original() -> Iterator[Original]:
    """A process of the original's."""
    with Original() as started:
        yield started
