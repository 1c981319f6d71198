"""The measuring code for vectors: data, truth, recall, peers, and a tiny run of every row."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.bench import __main__ as command
from holdfast.bench import groups, transport, vector_data, vectors
from holdfast.bench.measure import Row
from holdfast.bench.peers import vector_kinds
from holdfast.bench.peers.kinds import installed
from holdfast.bench.peers.nearest import FaissFlat, Found, Tunable
from holdfast.bench.run import QUICK, Run, VectorSizes
from holdfast.bench.vector_data import Floats, Sample

TINY = dataclasses.replace(
    QUICK,
    repetitions=1,
    long_repetitions=1,
    kills=1,
    vectors=VectorSizes(rows=700, source_rows=400, queries=4, commits=30, repetitions=1),
)
GROUPS = {name: measure for name, measure in groups.GROUPS.items() if name.startswith("vectors-")}
SAMPLES: dict[str, Callable[[], Sample]] = {
    "clustered": lambda: vector_data.clustered(500, 16, 20),
    "gaussian": lambda: vector_data.gaussian(500, 16, 20),
    "stdlib": lambda: vector_data.sources(500, 20),
}

# --- data and truth ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_the_same_every_time_and_hold_no_query(name: str) -> None:
    """What is measured today is what was measured yesterday; no query has an exact match."""
    sample, again = SAMPLES[name](), SAMPLES[name]()
    assert np.array_equal(sample.rows, again.rows)
    assert np.array_equal(sample.queries, again.queries)
    assert (len(sample.rows), len(sample.queries)) == (500, 20)
    assert sample.rows.dtype == sample.queries.dtype == np.float32
    assert str(sample) == f"{name} 500 x {sample.dimension}"
    assert not set(map(bytes, sample.queries)) & set(map(bytes, sample.rows))


def test_sources_have_length_one() -> None:
    """So that peers may rank by the squared distance where the store ranks by the cosine."""
    rows = vector_data.sources(500, 20).rows
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_truth_is_what_sorting_by_distance_gives(name: str) -> None:
    """The ids that everything else is held against."""
    sample = SAMPLES[name]()
    rows, queries = sample.rows.astype(np.float64), sample.queries.astype(np.float64)
    differences = queries[:, None] - rows[None]
    expected = np.argsort((differences**2).sum(axis=2), axis=1, kind="stable")[:, :10]
    assert np.array_equal(vector_data.nearest(sample), expected)


def test_recall_is_the_share_found_whatever_the_order() -> None:
    """Order, misses, and short answers; each query for itself."""
    nearest = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint64)
    assert vector_data.recall(nearest, nearest) == 1.0
    assert vector_data.recall([[4, 3, 2, 1], [8, 7, 6, 5]], nearest) == 1.0
    assert vector_data.recall([[5, 6, 7, 8], [1, 2, 3, 4]], nearest) == 0.0
    assert vector_data.recall([[1, 2, 0, 0], [5]], nearest) == 3 / 8
    assert vector_data.recall([[1, 1, 1, 1], []], nearest) == 1 / 8


class Ladder:
    """An index that finds one more of ten for every step of its breadth."""

    def __init__(self, sample: Sample, most: int) -> None:
        self._nearest = dict(
            zip(map(bytes, sample.queries), vector_data.nearest(sample), strict=True)
        )
        self._most = most
        self.breadth = 0

    def look_at(self, breadth: int) -> None:
        self.breadth = breadth

    def search(self, query: Floats) -> Found:
        found: Found = self._nearest[bytes(query)][: min(self.breadth, self._most)]
        return found


def test_an_index_is_tuned_to_the_least_that_reaches_the_recall() -> None:
    """0.95 takes all ten; the smallest breadth on offer that gives ten is 12."""
    sample = SAMPLES["gaussian"]()
    index = Ladder(sample, most=10)
    assert vectors.tune(index, sample, vector_data.nearest(sample)) == 1.0
    assert index.breadth == 12


def test_an_index_that_does_not_get_there_is_left_at_its_widest() -> None:
    """Its recall stands beside its figure."""
    sample = SAMPLES["gaussian"]()
    index = Ladder(sample, most=6)
    assert vectors.tune(index, sample, vector_data.nearest(sample)) == 0.6
    assert index.breadth == max(vectors.BREADTHS)


# --- peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*vector_kinds.LIMITS, *vector_kinds.EXACT])
def test_an_exact_peer_finds_what_is_nearest(name: str, tmp_path: Path) -> None:
    """Each really searches, so that its figures mean something."""
    kinds = vector_kinds.LIMITS | vector_kinds.EXACT
    if name not in installed(kinds):
        pytest.skip(f"{name} is not installed")
    sample = SAMPLES["gaussian"]()
    peer = kinds[name].make(str(tmp_path), sample.rows)
    assert vectors.recall_of(peer, sample, vector_data.nearest(sample)) == 1.0


@pytest.mark.parametrize("name", [*vector_kinds.LIBRARY, *vector_kinds.APPROXIMATE])
def test_an_approximate_peer_gets_to_the_recall(name: str, tmp_path: Path) -> None:
    """By its defaults, or by looking at more."""
    kinds = vector_kinds.LIBRARY | vector_kinds.APPROXIMATE
    if name not in installed(kinds):
        pytest.skip(f"{name} is not installed")
    sample = SAMPLES["gaussian"]()
    peer = kinds[name].make(str(tmp_path), sample.rows)
    nearest = vector_data.nearest(sample)
    if isinstance(peer, Tunable):
        assert vectors.tune(peer, sample, nearest) >= vectors.RECALL
    else:
        assert vectors.recall_of(peer, sample, nearest) >= vectors.RECALL


def test_a_batch_of_faiss_is_its_single_answers(tmp_path: Path) -> None:
    """Both figures are of the same work."""
    if not vector_kinds.has_faiss():
        pytest.skip("faiss is not installed")
    sample = SAMPLES["clustered"]()
    peer = FaissFlat(str(tmp_path), sample.rows)
    many = peer.search_many(sample.queries)
    for query, found in zip(sample.queries, many, strict=True):
        assert np.array_equal(peer.search(query), found)


# --- rows --------------------------------------------------------------------------------------


def test_the_name_vectors_stands_for_all_its_groups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And for nothing else."""
    called: list[str] = []

    def group(name: str) -> Callable[[Run], list[Row]]:
        def measure(run: Run) -> list[Row]:
            called.append(name)
            return [Row(name, "what", 1.0, "s")]

        return measure

    monkeypatch.setattr(command, "GROUPS", {name: group(name) for name in groups.GROUPS})
    assert command.main(["--quick", "--only", "idle,vectors", "--directory", str(tmp_path)]) == 0
    assert called == ["idle", *GROUPS]


def test_figures_are_kept_as_json_and_in_the_page_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The table is renewed; what is written around it stays."""
    figures = {"by hand": {100: 2e-6}, "by post": {100: 4e-6}}
    monkeypatch.setattr(transport, "measure", lambda *_: figures)
    page = tmp_path / "transport.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    arguments = ["--only", "transport", "--directory", str(tmp_path), "--figures", str(tmp_path)]
    for _ in range(2):
        assert command.main(arguments) == 0
    assert page.read_text() == (
        "before\n<!-- table -->\n"
        "| way | 100 B |\n"
        "|---|---|\n"
        "| by hand | 2 us, 0.05 GB/s |\n"
        "| by post | 4 us, 0.025 GB/s |\n"
        "<!-- end of table -->\nafter\n"
    )
    kept = json.loads((tmp_path / "transport.json").read_text())
    assert kept["ways"]["by hand"]["100"] == {"round_trip_us": 2.0, "gb_per_s": 0.05}
    assert "cpus" in kept["machine"]


@pytest.mark.parametrize("name", GROUPS)
def test_every_row_comes_out_on_tiny_data(name: str, tmp_path: Path) -> None:
    """From end to end: figures that are numbers, ratios of the two, a limit beside each budget
    that is not a ratio, nothing left behind."""
    rows = GROUPS[name](Run(str(tmp_path), TINY))
    assert rows or not vector_kinds.has_faiss()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.name.startswith(name.removesuffix("-restart")), row.name
        assert np.isfinite(row.value), row
        assert row.ratio == (None if row.other is None else row.value / row.other)
        assert (row.met is None) == (row.budget is None)
        assert not row.budget or row.other or row.limit, row
    assert os.listdir(tmp_path) == []


def test_the_limit_of_approximate_search_is_the_library_and_some_echoes() -> None:
    """Medians, their sum, and each recall beside its figure."""
    (library,) = vector_kinds.LIBRARY
    samples = {
        "engine": [90.0, 100.0, 900.0],
        library: [50.0, 40.0, 60.0],
        "faiss HNSW": [70.0, 80.0, 75.0],
        "echo": [20.0, 20.0, 10.0],
    }
    recalls = {"engine": 0.961, library: 0.957, "faiss HNSW": 0.952}
    sample = SAMPLES["gaussian"]()
    row, peer = vectors.rows_of(sample, samples, recalls, None)
    assert (row.value, row.other) == (100.0, 50.0 + 2.5 * 20.0)
    assert (row.ratio, row.met) == (1.0, True)
    assert row.what == "approximate top 10 of gaussian 500 x 16, recall 0.961"
    assert "recall 0.957" in row.note
    assert (peer.value, peer.other, peer.met) == (75.0, 100.0, None)
    assert peer.what.endswith("recall 0.952: faiss HNSW")
