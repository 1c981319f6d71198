"""The micro-benchmarks run."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def suites(*options: str) -> "subprocess.CompletedProcess[str]":
    """A run of the suites with these options, of its own even if this test is of a parallel run."""
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "bench/suites", "-o", "python_files=bench_*.py",
            "-p", "no:xdist", "-p", "no:cacheprovider", "-q", *options,
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_micro_benchmark_runs_once() -> None:
    """Each does its work without an error, on real stores where it needs them; nothing is timed."""
    done = suites("--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_comparing_needs_figures_and_says_how_to_get_them(tmp_path: Path) -> None:
    """Without figures that are kept, or with a number that none has, comparing ends before
    anything runs, with one line that says what to do."""
    where = f"--benchmark-storage=file://{tmp_path}"
    for compare, named in (("--benchmark-compare", ""), ("--benchmark-compare=0007", " '0007'")):
        done = suites(where, compare, "--benchmark-compare-fail=median:50%")
        assert done.returncode != 0
        (line,) = (done.stdout + done.stderr).strip().splitlines()
        assert line.startswith(f"ERROR: no figures{named} of this machine")
        assert line.endswith(f"kept in {tmp_path}: 'make bench' measures and keeps them")


def test_what_has_become_slower_is_listed_without_a_traceback(tmp_path: Path) -> None:
    """A median above the kept one by more than is allowed ends with exit code 1 and is named."""
    chosen = [f"--benchmark-storage=file://{tmp_path}", "-k", "test_checksum",
              "--benchmark-max-time=0.1"]  # fmt: skip
    assert suites(*chosen, "--benchmark-save=kept").returncode == 0
    (kept,) = tmp_path.glob("*/0001_kept.json")
    figures = json.loads(kept.read_text())
    figures["benchmarks"][0]["stats"]["median"] /= 1e6
    kept.write_text(json.dumps(figures))
    done = suites(*chosen, "--benchmark-compare=0001", "--benchmark-compare-fail=median:50%")
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "test_checksum" in said
    assert "Performance has regressed" in said
    assert "Traceback" not in said
