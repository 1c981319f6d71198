"""The original's Node package in a process of its own, driven through ``driver.js``."""

import base64
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PACKAGE = os.environ.get("HOLDFAST_INTEROP", "")
"""The folder whose ``node_modules`` holds the package; ``make interop`` sets it."""
_DRIVER = Path(__file__).with_name("driver.js")
_ALL_ROWS = 1 << 20
"""More than any test has. The original reserves memory for as many answers as it is asked for."""

Ids = list[int] | range


class OriginalError(Exception):
    """The original refused; the text is its own."""


class Original:
    """A Node process that has loaded the package. As a context manager it ends with the block."""

    def __init__(self, host: str | None = None) -> None:
        """With ``host``, if given, as ``$HOSTNAME``, which it writes into its lock files."""
        environment = dict(os.environ)
        if host is not None:
            environment["HOSTNAME"] = host
        self._process = subprocess.Popen(
            ["node", str(_DRIVER), os.path.abspath(PACKAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, command: str, **arguments: object) -> Any:
        """What the driver answers to a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the original died of {command}: exit status {self._process.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            raise OriginalError(answer["error"])
        return answer["ok"]

    def create(
        self, path: Path, dimension: int, metric: str = "l2", profile: int = 0
    ) -> "OriginalStore":
        """Make a file and open it; ``profile`` is the hardware's."""
        options = {"dimension": dimension, "metric": metric, "profile": profile}
        return OriginalStore(self, self.ask("create", path=str(path), options=options))

    def open(self, path: Path, *, read_only: bool = False) -> "OriginalStore":
        """Open a file, by default for writing, which takes its lock."""
        command = "openReadonly" if read_only else "open"
        return OriginalStore(self, self.ask(command, path=str(path)))

    def kill(self) -> None:
        """End the process as ``kill -9`` does."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


class OriginalStore:
    """A file that the original has open. As a context manager it is closed with the block."""

    def __init__(self, original: Original, number: int) -> None:
        self._original = original
        self._number = number

    def ask(self, command: str, **arguments: object) -> Any:
        """What the driver answers to a command about this file."""
        return self._original.ask(command, store=self._number, **arguments)

    def ingest(self, ids: Ids, vectors: NDArray[np.float32]) -> Any:
        """Insert or replace rows; counts and epoch."""
        return self.ask("ingest", ids=list(ids), vectors=_base64(vectors))

    def delete(self, ids: Ids) -> int:
        """Delete rows; how many there were."""
        deleted: int = self.ask("delete", ids=list(ids))["deleted"]
        return deleted

    def query(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """The ``k`` nearest rows, (id, distance) each, as its users get them."""
        return list(map(tuple, self.ask("query", vector=_base64(vector), k=k)))

    def distances(self, vector: NDArray[np.float32]) -> dict[int, float]:
        """Every row it sees, by id, and how far it is."""
        found = self.ask("distances", vector=_base64(vector), k=_ALL_ROWS)
        distances = dict(map(tuple, found))
        assert len(distances) == len(found), "the original gives an id twice"
        return distances

    def branch(self, path: Path) -> "OriginalStore":
        """Make a branch at ``path`` and open it."""
        return OriginalStore(self._original, self.ask("branch", path=str(path)))

    def derive(self, path: Path) -> "OriginalStore":
        """Make an empty child at ``path`` and open it."""
        return OriginalStore(self._original, self.ask("derive", path=str(path)))

    def close(self) -> None:
        """Close it, which gives up the lock."""
        self.ask("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()


def encode(data: bytes) -> str:
    """Bytes as the driver takes them."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Bytes as the driver gives them."""
    return base64.b64decode(text)


def _base64(vectors: NDArray[np.float32]) -> str:
    return encode(np.ascontiguousarray(vectors, "<f4").tobytes())
