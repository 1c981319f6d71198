"""The supervisor's log, and the one before it."""

import os
from pathlib import Path

import pytest

from holdfast.last_words import begin_log, last_line, tail
from holdfast.workers.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An engine's directory."""
    places = Places(str(tmp_path))
    os.mkdir(places.private)
    return places


def live(places: Places, says: str) -> None:
    """A supervisor that writes something and ends."""
    log = begin_log(places)
    os.write(log, says.encode())
    os.close(log)


def test_one_older_log_is_kept_if_it_says_something(places: Places) -> None:
    """A supervisor that ended without a word does not take the place of one that had some."""
    live(places, "first\n")
    live(places, "second\nof two\n")
    live(places, "")
    live(places, "")
    assert (tail(places.log), tail(places.older_log)) == ("", "second\nof two")
    assert last_line(places, 0.0) == f"{places.older_log!r} ends: of two"


def test_the_newest_words_are_told(places: Places) -> None:
    """Of two logs with words the later one counts."""
    live(places, "first\n")
    live(places, "second\n")
    assert last_line(places, 0.0) == f"{places.log!r} ends: second"


def test_the_words_of_an_earlier_trouble_are_not(places: Places) -> None:
    """What was said before the question was asked is no answer to it."""
    live(places, "long ago\n")
    os.utime(places.log, (1000, 1000))
    assert last_line(places, 2000.0) == f"nothing was said in {places.log!r}"
    live(places, "")
    assert last_line(places, 2000.0) == f"nothing was said in {places.log!r}"


def test_a_long_log_is_told_by_its_end(places: Places) -> None:
    """However much was written, little is read."""
    live(places, "x" * 100_000 + "\nthe end\n")
    assert tail(places.log).endswith("x\nthe end")
    assert len(tail(places.log)) <= 2000


def test_a_log_that_is_not_there_says_nothing(places: Places) -> None:
    """Nor is it missed."""
    assert tail(places.log) == ""
