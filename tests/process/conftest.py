"""Every test with real processes ends without them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import wait_until_none


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test did, in the end nobody serves its directories."""
    yield
    wait_until_none(tmp_path, 10.0)
