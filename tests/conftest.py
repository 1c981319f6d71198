"""What all tests share: how hard Hypothesis tries, and quiet logs where damage is the subject."""

import logging
import os
import signal

import pytest
from hypothesis import HealthCheck, Phase, settings

from holdfast.workers import fold_compaction, log_file

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "quick",
    deadline=None,  # a machine that is busy is no failure
    derandomize="CI" in os.environ,
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=_SLOW,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=3000,
    stateful_step_count=80,
    suppress_health_check=_SLOW,
)
settings.load_profile(os.environ.get("HOLDFAST_HYPOTHESIS", "quick"))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """No log lines: thousands of recoveries would each tell of the tail they cut."""
    caplog.set_level(logging.CRITICAL, "holdfast")


@pytest.fixture
def written_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and compactions have as many calls of the file layer as large ones."""
    monkeypatch.setattr(log_file, "_BEGUN_BYTES_MIN", 1)
    monkeypatch.setattr(fold_compaction, "_WRITE_EVERY_BYTES", 1)
