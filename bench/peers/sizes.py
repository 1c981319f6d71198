"""How much work the comparison with peers is, and how often it is done."""

from dataclasses import dataclass

_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of entries, rows and calls. ``long_repetitions`` is for what takes seconds.

    ``grown`` are the sizes that the curves of ``fold`` and ``warm`` are drawn over, ``searched``
    those of ``vectors`` and ``index``, ``models`` those of ``registry``, ``fields`` those of its
    models, ``histories`` the updates a key. ``puts_at_once`` are those of each of many threads,
    ``shared_calls`` and ``shared_puts`` are shared out among few or many clients.
    """

    entries: int
    puts: int
    batches: int
    calls: int
    rows: int
    ingested: int
    queries: int
    points: int
    entities: int
    windows: int
    bodies: tuple[int, ...]
    clients: tuple[int, ...]
    stores: tuple[int, ...]
    grown: tuple[int, ...]
    searched: tuple[int, ...]
    models: tuple[int, ...]
    fields: tuple[int, ...]
    histories: tuple[int, ...]
    puts_at_once: int
    shared_calls: int
    shared_puts: int
    repetitions: int
    long_repetitions: int


FULL = Sizes(
    entries=200_000,
    puts=200,
    batches=50,
    calls=1000,
    rows=100_000,
    ingested=10_000,
    queries=50,
    points=1_000_000,
    entities=100,
    windows=50,
    bodies=(100, 10 * _KIB, _MIB),
    clients=(1, 2, 4, 8, 16, 32, 64),
    stores=(1, 2, 4, 8),
    grown=(10_000, 100_000, 1_000_000, 10_000_000),
    searched=(10_000, 100_000, 1_000_000, 10_000_000),
    models=(10, 100, 1000, 10_000),
    fields=(10, 100, 1000, 10_000),
    histories=(1, 10, 100, 1000),
    puts_at_once=20,
    shared_calls=10_000,
    shared_puts=1000,
    repetitions=7,
    long_repetitions=3,
)
QUICK = Sizes(
    entries=5000,
    puts=20,
    batches=3,
    calls=50,
    rows=2000,
    ingested=1000,
    queries=10,
    points=20_000,
    entities=10,
    windows=10,
    bodies=FULL.bodies,
    clients=(1, 4),
    stores=(1, 2),
    grown=(1000, 10_000),
    searched=(1000, 3000),
    models=(10, 100),
    fields=(10, 100),
    histories=(1, 10),
    puts_at_once=2,
    shared_calls=200,
    shared_puts=20,
    repetitions=2,
    long_repetitions=2,
)
