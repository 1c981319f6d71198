"""The comparison with peers: adapters that answer rightly, the table's arithmetic, its failures."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.bench import vector_data, vectors, warm_data
from holdfast.bench.measure import Measurement
from holdfast.bench.peers import __main__ as command
from holdfast.bench.peers import (
    key_value,
    kinds,
    limits,
    nearest,
    own_vectors,
    point_stores,
    processes,
    saved,
    time_ranges,
    vector_kinds,
    words,
)
from holdfast.bench.peers.contest import Comparison, Contest, Figure, Work
from holdfast.bench.peers.key_value_stores import Ordered
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.vector_stores import fill
from holdfast.bench.peers.vectors import nearest_below
from tests.bench.peer_runs import CURVE, TINY, Said

WORK = Work("put", "puts of 1 B", "put", "synced", "append + fdatasync")
ROW = Comparison(
    WORK,
    Figure([1.0, 2.0, 3.0]),
    {
        "holdfast fold": Figure([4.0, 5.0, 4.0]),
        "holdfast index": Figure([9.0, 8.0, 8.0], 0.9),
        "Swift": Figure([2.0, 2.0, 2.5], 0.95),
        "Slow": Figure([40.0, 40.0, 40.0]),
    },
)
CLUSTERED = vector_data.clustered(500, 16, 10)


def present(table: dict[str, Kind[object]], name: str) -> None:
    """Skip the test where this peer is not installed."""
    if name not in kinds.installed(table):
        pytest.skip(f"{name} is not installed")


# --- adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", key_value.KINDS)
@pytest.mark.parametrize("synced", [True, False])
def test_a_store_of_keys_gives_back_what_it_was_given(
    name: str, synced: bool, tmp_path: Path
) -> None:
    """Single entries, a batch that replaces one of them, and the ranges of those that have any."""
    present({**key_value.KINDS}, name)
    items = [key_value.item(number) for number in range(1100)]
    with contextlib.closing(key_value.KINDS[name].make(str(tmp_path), synced=synced)) as peer:
        peer.put(items[0][0], b"to be replaced")
        peer.put(b"else", b"")
        peer.put_batch(items)
        assert [peer.get(key) for key, _ in items] == [value for _, value in items]
        assert peer.get(b"else") == b""
        assert peer.get(b"absent") is None
        if isinstance(peer, Ordered):
            assert peer.range(b"data/group-000001/") == items[1000:]


@pytest.mark.parametrize("name", time_ranges.READERS)
def test_a_store_of_points_finds_windows_single_points_and_all(name: str, tmp_path: Path) -> None:
    """The same points for all, and nothing where there is none."""
    present({**time_ranges.READERS}, name)
    given = warm_data.sample(400, 4)
    with contextlib.closing(time_ranges.READERS[name].make(str(tmp_path), given)) as peer:
        for window in given.windows(5, 7):
            assert peer.range(window) == 7
            assert peer.range(window._replace(start=window.end + 1, end=window.end)) == 0
            assert peer.get(window.entity, window.start) == warm_data.DIMENSION
            assert peer.get(window.entity, window.start - 1) == 0
            assert peer.get(99, window.start) == 0
        assert peer.scan() == 400


@pytest.mark.parametrize("synced", [True, False])
def test_stores_of_points_take_batches(synced: bool, tmp_path: Path) -> None:
    """Every batch of every writer arrives whole: what can be read back is, Parquet by its files."""
    given = warm_data.sample(400, 4)
    table = time_ranges.WRITERS[synced]
    for number, name in enumerate(kinds.installed(table)):
        directory = tmp_path / str(number)
        directory.mkdir()
        with contextlib.closing(table[name].make(str(directory))) as peer:
            for batch in given.batches(100, "time"):
                peer.write(batch)
            if isinstance(peer, point_stores.ParquetFiles):
                parquet = pytest.importorskip("pyarrow.parquet")
                assert sum(parquet.read_table(path).num_rows for path in directory.iterdir()) == 400
            else:
                assert isinstance(
                    peer, time_ranges.Warm | point_stores.Sqlite | point_stores.DuckDb
                )
                assert peer.scan() == 400


VECTOR_STORES = (
    own_vectors.UNSYNCED | own_vectors.GRAPH | vector_kinds.SYNCED | vector_kinds.UNSYNCED
)


@pytest.mark.parametrize("name", VECTOR_STORES)
def test_a_vector_store_finds_what_is_nearest_with_a_filter_and_without(
    name: str, tmp_path: Path
) -> None:
    """Rows of several batches; on so few, graphs find nearly all."""
    present({**VECTOR_STORES}, name)
    with contextlib.closing(VECTOR_STORES[name].make(str(tmp_path), 16)) as store:
        fill(store, CLUSTERED.rows, 200)
        least = 0.9 if "Chroma" in name or "hnsw" in name else 1.0
        assert vectors.recall_of(store, CLUSTERED, vector_data.nearest(CLUSTERED)) >= least
        found = [store.search_below(query, 30) for query in CLUSTERED.queries]
        assert all(int(number) % nearest.PARTS < 30 for ids in found for number in ids)
        assert vector_data.recall(found, nearest_below(CLUSTERED, 30)) >= least


@pytest.mark.parametrize("name", ["faiss", "hnswlib"])
def test_a_library_filters_as_a_store_does(name: str, tmp_path: Path) -> None:
    """None that the condition leaves out, and nearly all that it does not."""
    table = vector_kinds.LIMITS | vector_kinds.APPROXIMATE
    present({**table}, name)
    peer = table[name].make(str(tmp_path), CLUSTERED.rows)
    assert isinstance(peer, nearest.Filtering)
    found = [peer.search_below(query, 30) for query in CLUSTERED.queries]
    assert all(int(number) % nearest.PARTS < 30 for ids in found for number in ids)
    assert vector_data.recall(found, nearest_below(CLUSTERED, 30)) >= 0.9


@pytest.mark.parametrize("name", saved.KINDS)
def test_what_was_saved_is_opened_and_searched(name: str, tmp_path: Path) -> None:
    """A row is the nearest to itself, in a file that was closed in between."""
    present({**saved.KINDS}, name)
    saved.KINDS[name].make(str(tmp_path), 16).save(CLUSTERED.rows)
    with contextlib.closing(saved.KINDS[name].make(str(tmp_path), 16)) as opened:
        assert opened.first_answer(CLUSTERED.rows[123])[0] == 123


@pytest.mark.parametrize("name", [name for name in processes.KINDS if name != "Ray actor"])
def test_another_process_gives_the_body_that_is_asked_for(name: str, tmp_path: Path) -> None:
    """Of every size; Ray's processes are many, so it is left to the runs."""
    present({**processes.KINDS}, name)
    sizes = (processes.NOTHING, 100, 300_000)
    with contextlib.closing(processes.KINDS[name].make(str(tmp_path), sizes)) as keeper:
        assert [len(keeper.get(size)) for size in sizes] == list(sizes)
        assert keeper.seconds_per_call(100, 3) > 0


def test_the_process_behind_the_pipe_gives_as_many_bytes_as_are_asked_for() -> None:
    """The limit of a round trip moves what the round trip moves."""
    with limits.piped() as ask:
        assert [len(ask(b"request", size)) for size in (0, 1, 100_000)] == [0, 1, 100_000]


# --- arithmetic --------------------------------------------------------------------------------


def test_a_row_knows_its_shares_and_who_is_ahead() -> None:
    """By medians; against the fastest of the engine's own."""
    assert (ROW.limit.median, ROW.limit.spread) == (2.0, 1.0)
    assert [ROW.share(name) for name in ROW.figures] == [0.5, 0.25, 1.0, 0.05]
    assert (ROW.ours(), ROW.ahead()) == ("holdfast fold", ["Swift"])


def test_a_row_without_the_engine_has_nobody_ahead() -> None:
    """As when the engine itself failed."""
    row = dataclasses.replace(ROW, figures={"Swift": ROW.figures["Swift"]})
    assert (row.ours(), row.ahead()) == (None, [])


def test_the_table_has_the_limit_first_and_then_everyone_by_speed() -> None:
    """With spread, share, and recall where the answer is approximate."""
    lines = words.rows_table([ROW]).splitlines()[2:]
    assert lines[0].startswith("| **puts of 1 B**, per put; synced | *limit: append + fdatasync* |")
    assert lines[1:] == [
        "| | Swift | 2 s | 25 % | 100 % | 0.950 |",
        "| | **holdfast fold** | 4 s | 25 % | 50 % |  |",
        "| | **holdfast index** | 8 s | 12 % | 25 % | 0.900 |",
        "| | Slow | 40 s | 0 % | 5 % |  |",
    ]
    assert words.notes([ROW], {"Gone": "not installed"}).splitlines() == [
        "- Ahead of holdfast fold in puts of 1 B (synced): Swift 2.0 times.",
        "- Gone took no part: not installed.",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (7e-9, "7 ns")]
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    """So that figures of all sizes can be read."""
    assert words.duration(seconds) == text


# --- a run -------------------------------------------------------------------------------------


def counting(order: list[str], name: str) -> Measurement:
    """A measurement that notes that it was taken."""

    def measure() -> float:
        order.append(name)
        return 1.0

    return measure


def test_a_peer_that_fails_is_named_once_and_the_others_go_on(tmp_path: Path) -> None:
    """In the middle of a row, and in making it; and it is not asked again."""
    run, order = Said(tmp_path), list[str]()
    contest = Contest(run)

    def fail() -> float:
        order.append("bad")
        raise OSError("no room\nand more")

    def refuse() -> int:
        raise ValueError("it cannot be made")

    table = {"unmade": Kind((), refuse), "fine": Kind((), lambda: 5)}
    assert contest.enter(table, lambda _, kind: kind.make()) == {"fine": 5}
    for _ in range(2):
        measurements = {"good": counting(order, "good"), "bad": fail}
        contest.compare(WORK, measurements, counting(order, "limit"), 2)
    assert [list(row.figures) for row in contest.rows] == [["good"], ["good"]]
    assert order == ["good", "bad", "limit", *["good", "limit"] * 5]
    assert contest.left_out == {
        "unmade": "failed with ValueError: it cannot be made",
        "bad": "failed with OSError: no room",
    }
    assert sum("bad" in line for line in run.lines) == 1


def test_a_missing_peer_is_skipped_with_one_line(tmp_path: Path) -> None:
    """However many rows it would have been in."""
    run = Said(tmp_path)
    contest = Contest(run)
    table = {"there": Kind((), int), "gone": Kind(("no-such-distribution",), int)}
    assert contest.entrants(table) == contest.entrants(table) == ["there"]
    assert run.lines == ["  gone: not installed"]
    assert kinds.missing(table) == "not installed, so not compared: gone"


AREAS = {
    "key-value": {"put-synced", "put-unsynced", "put-at-once", "batch-synced", "batch-unsynced",
                  "get", "prefix"},
    "time-ranges": {"write-synced", "write-unsynced", "range", "entity", "get", "scan"},
}  # fmt: skip


@pytest.mark.parametrize("area", AREAS)
def test_an_area_has_all_its_rows_with_the_engine_in_each(area: str, tmp_path: Path) -> None:
    """On tiny data, with whatever is installed; nobody fails, and nothing is left behind."""
    contest = Contest(Said(tmp_path))
    command.AREAS[area][1](contest, TINY)
    assert {row.work.name for row in contest.rows} == AREAS[area]
    assert all(row.ours() for row in contest.rows)
    assert set(contest.left_out.values()) <= {"not installed"}
    assert list(tmp_path.iterdir()) == []


def areas_of(rows: list[Comparison]) -> dict[str, tuple[str, Callable[[Contest, object], None]]]:
    """An area that has been measured already."""
    return {"made": ("Made up", lambda contest, _: contest.rows.extend(rows))}


def test_the_page_gets_the_table_and_beside_it_are_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The table is renewed, what is written around it stays, and the JSON has every sample."""
    monkeypatch.setattr(command, "AREAS", areas_of([ROW]))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made -->\nold\n<!-- end of made -->\nafter\n")
    arguments = ["--quick", "--only", "made", "--directory", str(tmp_path), "--page", str(page)]
    assert command.main(arguments) == command.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- made -->\n")
    assert text.endswith("<!-- end of made -->\nafter\n")
    assert words.rows_table([ROW]) in text
    assert "\nold\n" not in text
    kept = json.loads((tmp_path / "figures/made.json").read_text())
    assert kept["rows"][0]["figures"]["Swift"]["seconds"] == [2.0, 2.0, 2.5]
    assert kept["rows"][0]["figures"]["Swift"]["share_of_limit"] == 1.0
    assert "cpus" in kept["machine"]


def test_a_run_in_which_the_engine_fails_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A peer's failure is told; the engine's own is an error."""

    def fail(contest: Contest, _: object) -> None:
        with contest.excusing("holdfast fold"):
            raise OSError("it broke")

    monkeypatch.setattr(command, "AREAS", {"made": ("Made up", fail)})
    assert command.main(["--quick", "--only", "made", "--directory", str(tmp_path)]) == 1


def test_an_unknown_area_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A misspelt name does not run everything, nor nothing."""
    assert command.main(["--only", "vector"]) == 2
    assert "key-value, vectors, time-ranges, calls, scaling" in capsys.readouterr().err


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[str], str]:
    """Draw a chart of rows or of curves, and read it."""
    pytest.importorskip("matplotlib")
    from holdfast.bench.peers import charts

    numbers = itertools.count()

    def draw(what: str) -> str:
        path = tmp_path / f"{next(numbers)}.svg"
        if what == "rows":
            charts.draw_rows(str(path), "Made up", [ROW, ROW])
        else:
            charts.draw_curves(str(path), [CURVE] * 4)
        return path.read_text()

    return draw


@pytest.mark.parametrize("what", ["rows", "curves"])
def test_a_chart_has_its_words_as_text_and_is_the_same_each_time(
    what: str, drawn: Callable[[str], str]
) -> None:
    """So that it can be searched, and that only new figures change the file."""
    text = drawn(what)
    expected = {"rows": ("Swift", "recall 0.950", "puts of 1 B"), "curves": ("slope +1.00", "1k")}
    assert all(word in text for word in expected[what])
    assert text == drawn(what)


def test_rows_of_a_filter_are_those_that_pass() -> None:
    """The truth of a filtered search, by hand."""
    rows = np.arange(200, dtype=np.float32)[:, None]
    sample = vector_data.Sample("line", rows, np.array([[150.2]], np.float32))
    assert nearest_below(sample, 10)[0].tolist() == list(range(109, 99, -1))
