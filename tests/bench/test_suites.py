"""The micro-benchmarks run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_micro_benchmark_runs_once() -> None:
    """Each does its work without an error, on real stores where it needs them; nothing is timed."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "bench/suites", "-o", "python_files=bench_*.py",
            "-p", "no:xdist", "-p", "no:cacheprovider", "--benchmark-disable", "-q",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
