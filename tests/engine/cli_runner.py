"""The command line, run in the test's own process."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdfast.cli import main

PROGRAM = [sys.executable, "-m", "holdfast"]


class Result(NamedTuple):
    """What a run of the command line left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which has to be one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Cli:
    """The command line, run in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Result:
        self._patch.setattr(sys, "argv", ["holdfast", *map(str, arguments)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self._capture.readouterr()
        assert isinstance(end.value.code, int)
        return Result(end.value.code, out, err)


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory: time and content."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted([directory, *directory.rglob("*")])
    }
