"""One run of the benchmarks: its sizes, its directories, and what it says while it works."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import holdfast
from holdfast.bench import data
from holdfast.bench.scratch import scratch, swept

_INDEX_WAIT_S = 60.0
_PREFIX = ".bench-"


@dataclass(frozen=True, slots=True)
class VectorSizes:
    """How many vectors there are, how many queries a mean is of, and how many commits of one row.

    ``repetitions`` is how often it is measured what takes milliseconds.
    """

    rows: int
    source_rows: int
    queries: int
    commits: int
    repetitions: int


@dataclass(frozen=True, slots=True)
class WarmSizes:
    """How many points there are, of how many entities, and in how long series ``get`` looks.

    A mean is of ``reads`` calls, or of ``puts``. ``repetitions`` is how often it is measured what
    takes milliseconds, ``long_repetitions`` what takes seconds.
    """

    rows: int
    entities: int
    small_rows: int
    lengths: tuple[int, ...]
    reads: int
    puts: int
    repetitions: int
    long_repetitions: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured, and how often."""

    entries: int
    batches: int
    repetitions: int
    long_repetitions: int
    load_s: float
    calls: int
    kills: int
    opens: int
    bodies: tuple[int, ...]
    vectors: VectorSizes
    warm: WarmSizes
    quick: bool


_KIB, _MIB = 1024, 1024 * 1024
FULL = Sizes(
    entries=1_000_000,
    batches=100,
    repetitions=5,
    long_repetitions=3,
    load_s=2.0,
    calls=2000,
    kills=21,
    opens=15,
    bodies=(100, _KIB, 10 * _KIB, 100 * _KIB, 280 * _KIB, _MIB, 8 * _MIB, 64 * _MIB),
    vectors=VectorSizes(rows=100_000, source_rows=24_000, queries=200, commits=2000, repetitions=9),
    warm=WarmSizes(
        rows=1_000_000,
        entities=100,
        small_rows=10_000,
        lengths=(1000, 100_000, 1_000_000),
        reads=100,
        puts=100,
        repetitions=9,
        long_repetitions=3,
    ),
    quick=False,
)
QUICK = Sizes(
    entries=50_000,
    batches=10,
    repetitions=3,
    long_repetitions=2,
    load_s=0.4,
    calls=300,
    kills=5,
    opens=5,
    bodies=(100, 10 * _KIB, _MIB),
    vectors=VectorSizes(rows=5000, source_rows=1000, queries=30, commits=100, repetitions=3),
    warm=WarmSizes(
        rows=100_000,
        entities=20,
        small_rows=5000,
        lengths=(1000, 10_000, 100_000),
        reads=30,
        puts=50,
        repetitions=3,
        long_repetitions=2,
    ),
    quick=True,
)


@contextlib.contextmanager
def directory_of(parent: str) -> Iterator[str]:
    """A directory in ``parent`` for the data of a run; what killed ones have left there goes."""
    for name in swept(_PREFIX, parent):
        say(f"removed {name}, which a run that was killed had left there")
    with scratch(_PREFIX, parent) as directory:
        yield directory


def say(text: str) -> None:
    """Tell the reader what is going on, apart from the results."""
    print(text, file=sys.stderr, flush=True)


class Run:
    """Sizes and directories. Everything a run writes lies in ``directory`` and is removed."""

    def __init__(self, directory: str, sizes: Sizes) -> None:
        self.sizes = sizes
        self._directory = directory

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """A new empty directory, removed afterwards."""
        path = tempfile.mkdtemp(prefix="row-", dir=self._directory)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def say(self, text: str) -> None:
        """Tell the reader what is going on, apart from the results."""
        say(text)

    @cached_property
    def large(self) -> str:
        """A directory with a fold ``config`` of ``entries`` entries, shared by several rows."""
        path = os.path.join(self._directory, "large")
        os.mkdir(path)
        self.say(f"  writing a log of {self.sizes.entries:,} entries")
        data.write_log(os.path.join(path, "config.snap"), self.sizes.entries)
        return path

    @property
    def large_log(self) -> str:
        """The log of the fold in ``large``."""
        return os.path.join(self.large, "config.snap")

    def index_large(self) -> None:
        """See to it that ``large`` has an index cache of all of its log."""
        with holdfast.open(self.large) as engine:
            wait_for_index(engine.fold("config"))


def wait_for_index(fold: holdfast.Fold) -> None:
    """Wait until the index cache covers the log, which idle workers see to."""
    give_up = time.monotonic() + _INDEX_WAIT_S
    path = fold.path + ".index"
    while time.monotonic() < give_up:
        status = fold.status()
        if status.indexed_bytes == status.log_bytes and os.path.exists(path):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no index cache of {fold.path} after {_INDEX_WAIT_S:g} s")
