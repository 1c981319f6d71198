"""A throw-away copy of the package with one defect in it, drilled in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import holdfast
from tests.bench.mutations import Mutation

_PATIENCE = (
    ("bench/drill/serving.py", "PATIENCE_S = 60.0", "PATIENCE_S = 10.0"),
    ("bench/drill/forks.py", "_GRACE_S = 30.0", "_GRACE_S = 5.0"),
    ("bench/drill/findings.py", "_SHRINKING_S = 15.0", "_SHRINKING_S = 3.0"),
    ("bench/drill/run.py", "OVERDUE_S = 200.0", "OVERDUE_S = 40.0"),
)
"""Drills wait a minute for what should come at once; for what never comes that is long."""


def drilled(
    mutation: Mutation, directory: Path, *, mutated: bool = True
) -> tuple[int, dict[str, Any]]:
    """Exit code and report of the drill that is to notice the mutation, if it is there."""
    package = directory / "holdfast"
    directory.mkdir(exist_ok=True)
    shutil.copytree(Path(str(holdfast.__file__)).parent, package)
    if mutated:
        edit(package, mutation.module, mutation.old, mutation.new)
    for patience in _PATIENCE:
        edit(package, *patience)
    done = subprocess.run(
        [
            sys.executable, "-m", "holdfast", "drill", "--json", "--seed", "1",
            "--stores", mutation.store, "--faults", mutation.faults,
            "--seconds", str(mutation.seconds),
        ],
        cwd=directory, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(directory), "TMPDIR": str(directory)},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def edit(package: Path, module: str, old: str, new: str) -> None:
    """Replace text that a module must have."""
    path = package / module
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{module} no longer has {old!r}: the mutation needs a new place"
    path.unlink()  # it may be a link to the real one
    path.write_text(text.replace(old, new), encoding="utf-8")
