"""The registry: a save among many models, the nearest of them, the statistics of a large table."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

import holdfast
from holdfast.bench.callers import echoing
from holdfast.bench.measure import (
    Measurement,
    Row,
    at_most,
    in_turn,
    medians,
    seconds,
    seconds_per_call,
)
from holdfast.bench.run import Run
from holdfast.formats.fingerprint import FieldStats, schema_hash
from holdfast.formats.model_artifact import encode

_FIELDS = 13
_NAMES = 300
_MODELS, _MODELS_QUICK = 1000, 100
_ROWS, _ROWS_QUICK = 1_000_000, 20_000
_COLUMNS = 20
_CALLERS = 64


def save(run: Run) -> list[Row]:
    """One save among 1,000 models, synced, against writing and syncing the same bytes."""
    with _filled(run) as (registry, models), run.fresh() as beside:
        content = Path(registry.path).read_bytes()
        numbers = iter(range(1 << 30))

        def one() -> None:
            registry.save(models[next(numbers) % len(models)])

        def bare() -> None:
            _write_and_sync(os.path.join(beside, str(next(numbers))), content)

        def all_at_once() -> None:
            with ThreadPoolExecutor(_CALLERS) as pool:
                list(pool.map(registry.save, models[:_CALLERS]))

        measurements: dict[str, Measurement] = {
            "save": lambda: seconds(one) * 1e3,
            "bare": lambda: seconds(bare) * 1e3,
        }
        in_turn(measurements, 1)  # warm up
        samples = in_turn(measurements, 5 * run.sizes.repetitions)
        together = {"many": lambda: seconds(all_at_once) * 1e3 / _CALLERS}
        samples |= in_turn(together, run.sizes.repetitions)
    middle = medians(samples)
    count, note = len(models), f"{len(content) / 1e6:.1f} MB"
    return [
        Row("registry-save", f"save of one model among {count:,}, always", middle["save"], "ms",
            "writing and syncing the same bytes", middle["bare"], at_most(3.0), note, samples),
        Row("registry-callers", f"the same, each of {_CALLERS} at once", middle["many"], "ms",
            "one alone", middle["save"], at_most(1.0)),
    ]  # fmt: skip


def nearest(run: Run) -> list[Row]:
    """The nearest of 1,000 models to a sample, by the engine; also right after a save."""
    with _filled(run) as (registry, models), echoing(encode(models[7])) as echo:
        query = models[7].fingerprint

        def after_a_save() -> float:
            registry.save(models[0])
            return seconds(lambda: registry.get_nearest(query)) * 1e3

        measurements: dict[str, Measurement] = {
            "nearest": lambda: (
                seconds_per_call(lambda: registry.get_nearest(query), run.sizes.repetitions) * 1e3
            ),
            "after a save": after_a_save,
            "echo": lambda: echo() / 1e3,
        }
        in_turn(measurements, 1)  # warm up
        samples = in_turn(measurements, 3 * run.sizes.repetitions)
    middle, count = medians(samples), len(models)
    return [
        Row("registry-nearest", f"get_nearest of {count:,} models", middle["nearest"], "ms",
            budget=at_most(2.0), samples=samples,
            limit=("an echo of a model over a pipe", middle["echo"])),
        Row("registry-nearest-after-save", "the same, right after a save", middle["after a save"],
            "ms"),
    ]  # fmt: skip


def sample(run: Run) -> list[Row]:
    """Statistics of a table whose values are nearly all distinct, the costliest there is."""
    rows = _ROWS_QUICK if run.sizes.quick else _ROWS
    table = _table(rows)
    fields = [(name, "Id") for name in table.column_names]
    measurements: dict[str, Measurement] = {
        "sample": lambda: seconds(lambda: holdfast.SchemaFingerprint.from_sample(fields, table))
    }
    samples = in_turn(measurements, run.sizes.long_repetitions)
    what = f"from_sample of {rows:,} rows x {_COLUMNS} columns"
    return [
        Row("registry-sample", what, medians(samples)["sample"], "s", budget=at_most(10.0),
            samples=samples)
    ]  # fmt: skip


def _write_and_sync(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _filled(run: Run) -> Iterator[tuple[holdfast.Registry, list[holdfast.ModelArtifact]]]:
    """A registry of models like those of a linkage pipeline: 13 fields, 10 values of each."""
    count = _MODELS_QUICK if run.sizes.quick else _MODELS
    random = np.random.default_rng(1)
    models = [model(number, random) for number in range(count)]
    with run.fresh() as directory, holdfast.open(directory) as engine:
        registry = engine.registry("models")
        registry.save_many(models)
        yield registry, models


def model(
    number: int, random: np.random.Generator, fields: int = _FIELDS
) -> holdfast.ModelArtifact:
    """A model of a schema of its own, which has most fields in common with some others."""
    names = [f"field {(7 * number + n) % max(_NAMES, fields)}" for n in range(fields)]
    stats = tuple(
        FieldStats(
            name,
            "Name",
            float(np.float32(random.random())),
            int(random.integers(1, 1000)),
            tuple(f"{name}, value {k} of {number}" for k in range(10)),
        )
        for name in names
    )
    digest = schema_hash([(name, "Name") for name in names], [(str(number), "")])
    fingerprint = holdfast.SchemaFingerprint(digest, stats, 1000, 1_750_000_000)
    rows = random.random((fields, 4), np.float32)
    return holdfast.ModelArtifact(fingerprint, rows, rows, -2.0, 0.9, 0.1, trained_on=1)


def _table(rows: int) -> pa.Table:
    random = np.random.default_rng(2)
    numbers = np.arange(rows)
    texts = pa.array([f"text {number}" for number in numbers])
    columns: dict[str, object] = {}
    for number in range(_COLUMNS):
        kinds = (
            lambda: random.permutation(numbers),
            lambda: random.random(rows),
            lambda: texts.take(pa.array(random.permutation(numbers))),
        )
        columns[f"column {number}"] = kinds[number % 3]()
    return pa.table(columns)
