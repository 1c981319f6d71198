"""The kill storm, in a short version; ``storm.py`` is the storm itself."""

from dataclasses import asdict
from pathlib import Path

from tests.process.harness import LONG
from tests.process.storm import storm

SECONDS = 20.0 if LONG else 5.0


def test_a_kill_storm_breaks_no_promise(tmp_path: Path) -> None:
    """No call fails, no acknowledged write is lost, and nothing is left two seconds later."""
    figures = storm(str(tmp_path), SECONDS)
    print(asdict(figures))
    assert figures.kept_every_promise, asdict(figures)
    assert figures.calls > 100
    assert figures.kills_of_workers > 0
    assert figures.kills_of_supervisors > 0
