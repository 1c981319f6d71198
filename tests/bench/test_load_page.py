"""A load test's page: whole, complete, harmless whatever the names, and small."""

import random
import re

import pytest
from msgspec.structs import replace

from holdfast.bench.load.outcome import (
    Check,
    Disk,
    Kill,
    Limit,
    Moment,
    Operation,
    Outcome,
    Process,
    Settings,
    Step,
)
from holdfast.bench.load.page import page
from holdfast.bench.load.summary import lines
from holdfast.bench.load.timings import Histogram
from holdfast.bench.load.timings import counted as counted_times
from tests.bench.pages import counted, read

STORES = ("fold", "vectors")
HOSTILE = "<script>alert(1)</script>&\"'"
MIB = 1 << 20


def moment(second: float, **changes: object) -> Moment:
    """A second in which nothing special happened."""
    processes = [
        Process(name, 100 + place, 0.25, 20 * MIB, 50 * MIB, 21)
        for place, name in enumerate(("supervisor", *STORES, "clients 1", "clients 2"))
    ]
    disks = [Disk("fold", 3 * MIB, None), Disk("vectors", 2 * MIB, MIB)]
    usual = Moment(
        second, dict.fromkeys(STORES, 50), 0, 0, 1.5, 9.5, 30.0, 3, 0, 0.0, 0, [], processes, disks
    )
    return replace(usual, **changes)


def operation(store: str, name: str, count: int = 1000) -> Operation:
    """Calls whose latencies are all different."""
    times = {"min": 0.11, "p50": 1.22, "p90": 3.33, "p99": 14.44, "p99_9": 55.55,
             "p99_99": 66.66, "max": 177.0}  # fmt: skip
    curve = [(100 * (1 - 0.5**step), 1.5**step) for step in range(15)] + [(100.0, 177.0)]
    service = {key: value / 2 for key, value in times.items()}
    return Operation(store, name, count, 0, 0, 77.7, times, service, curve)


def test_percentiles_of_too_few_calls_are_dashes() -> None:
    """Where no call is beyond a percentile, page and summary have a dash for it, and the slowest
    call in figures all the same."""
    few = operation("fold", "get", 50)
    histogram = Histogram()
    histogram.add(counted_times([0.001 * n for n in range(1, 51)]))
    few = replace(few, curve=histogram.curve())
    assert [name for name in few.latency_ms if few.tells(name)] == ["min", "p50", "p90", "max"]
    one = replace(outcome(), operations=[few])
    assert "1.223.33---1770.61-00" in read(page(one)).text
    (line,) = [line for line in lines(one) if line.startswith("fold get")]
    assert line.split() == ["fold", "get", "77.7", "1.22", "-", "-", "177.00"]


def outcome(moments: int = 60) -> Outcome:
    """A run with something of everything that a good one has."""
    return Outcome(
        settings=Settings("mixed", "a bit of all", 16, 2, "threads", 321.0, 60.0, 2.0, "always",
                          5.0, 4711),
        machine={"cpus": 2, "memory_bytes": 25 << 30, "versions": {"numpy": "2.4.6"}},
        version="1.2.3", seconds=60.0, interrupted=False,
        operations=[operation("fold", "get"), operation("vectors", "query", 234_567)],
        moments=[moment(float(n + 1)) for n in range(moments)],
        kills=[Kill(5.0, "fold", 88.8), Kill(10.0, "vectors", 99.9), Kill(15.0, "fold", 123.4)],
        restarts=4, errors=0, wrong_reads=0, read_back=30_250, texts=[],
        checks=[Check("files are bounded", "9.7 MiB", "2 x 4.5 MiB", True),
                Check("memory is flat", "+6.3 MiB/h", "1 MiB/h", None, "the run was short")],
    )  # fmt: skip


def values(page_: str, name: str) -> list[float]:
    """What a series is said to be, by the texts that a chart shows when pointed at."""
    return [
        float(n.replace(",", ""))
        for n in re.findall(rf"<title>[^<]*[:,] {name} ([\d.,]*\d)[^<]*</title>", page_)
    ]


def test_everything_is_there() -> None:
    """Verdict, settings, each operation's figures, charts, kills, checks and machine."""
    reader = read(page(outcome()))
    for said in (
        "235,567 calls, 0 errors, 0 wrong reads; 30,250 keys read back", "a bit of all",
        "16 clients (threads) in 2 processes", "321 calls/s", "60 s after 2 s of warm-up",
        "durability always", "a worker killed every 5 s", "seed 4711", "vectors query234,56777.7",
        "1.223.3314.4455.5566.66177", "0.617.22", "3 workers were killed; 1 more were started",
        "fold2106123", "files are boundedyes9.7 MiB2 x 4.5 MiB",
        "memory is flatopen: the run was short+6.3 MiB/h", "numpy 2.4.6", "1.2.3",
        "5 s: fold killed, served again after 89 ms",
    ):  # fmt: skip
        assert said in reader.text, said
    assert ("p", {"class": "verdict held"}) in reader.tags
    assert counted(reader, "svg") == 13


def test_charts_have_every_figure() -> None:
    """What was measured each second can be read from the charts, with its unit."""
    last = replace(
        moment(2.0), p50_ms=1.23, p99_ms=45.6, max_ms=789.0, outstanding=7, waiting=12, late_s=0.345
    )
    text = read(page(replace(outcome(), moments=[moment(1.0), last]))).text
    for said in (
        "2 s: fold 50 /s, vectors 50 /s, all 100 /s",
        "2 s: median 1.23 ms, 99th percentile 45.6 ms, slowest 789 ms",
        "2 s: under way 7, overdue 12", "2 s: lateness 345 ms",
        "2 s: fold 25 %, vectors 25 %, supervisor 25 %, clients 50 %",
        "2 s: fold 20 MiB, vectors 20 MiB, supervisor 20 MiB, clients 40 MiB",
        "2 s: fold 21, vectors 21, supervisor 21, clients 42",
        "2 s: its files on disk 3 MiB", "2 s: its files on disk 2 MiB, what of them counts 1 MiB",
    ):  # fmt: skip
        assert said in text, said


def test_what_broke_is_at_the_top() -> None:
    """Errors and wrong reads turn the verdict, and their texts follow it at once."""
    broken = replace(
        outcome(), errors=3, wrong_reads=1, unmade=17, texts=["fold.get: <b>stale</b>"]
    )
    broken.moments[3] = moment(4.0, errors=3, wrong_reads=1)
    reader = read(page(broken))
    assert ("p", {"class": "verdict broken"}) in reader.tags
    assert "3 errors, 1 wrong reads" in reader.text
    assert "17 calls were due and not made" in reader.text
    assert reader.text.index("<b>stale</b>") < reader.text.index("Operations")
    assert "4 s: errors 3, wrong reads 1" in reader.text


def test_the_search_is_shown() -> None:
    """Each rate that was tried has a point and a row, and the objective is named."""
    steps = [Step(300.0, 300.1, 9.9, 0, True, ""),
             Step(1234.0, 999.0, 456.0, 2, False, "too <slow>")]  # fmt: skip
    text = read(page(replace(outcome(), limit=Limit(50.0, 300.0, steps)))).text
    for said in ("300 calls/s is the highest rate that keeps p99 at 50 ms",
                 "1,2349994562too <slow>", "does not hold: 1,234 calls/s, 456 ms",
                 "holds: 300 calls/s, 9.9 ms",
                 "from 300 calls/s on", "objective"):  # fmt: skip
        assert said in text, said
    none = read(page(replace(outcome(), limit=Limit(50.0, None, steps[1:])))).text
    assert "No rate that was tried keeps p99 at 50 ms" in none


def test_names_are_text() -> None:
    """Whatever a profile, an operation, a store or a process is called, it is shown, not run."""
    hostile = outcome()
    hostile = replace(
        hostile,
        settings=replace(hostile.settings, profile=HOSTILE, description=HOSTILE),
        operations=[operation(HOSTILE, HOSTILE)],
        texts=[HOSTILE],
        checks=[Check(HOSTILE, HOSTILE, HOSTILE, False)],
        kills=[Kill(1.0, HOSTILE, 1.0)],
        machine={HOSTILE: HOSTILE},
        moments=[moment(1.0, processes=[Process(HOSTILE, 1, 0.0, 1, 1, 1)]), moment(2.0)],
    )
    reader = read(page(hostile))
    assert reader.text.count(HOSTILE) >= 10


def test_a_run_in_which_nothing_happened_has_a_page() -> None:
    """No call and no moment: the page says so in place of charts."""
    text = read(
        page(replace(outcome(0), operations=[], kills=[], restarts=0, read_back=0, checks=[]))
    ).text
    for said in ("0 calls", "No call was measured", "too short to show", "too short to tell",
                 "0 workers were killed; 0 more"):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_and_idle_runs_have_a_page(count: int) -> None:
    """One to three moments, all figures 0: charts are drawn, with axes from 0."""
    idle = [
        Moment(
            float(n + 1), {"fold": 0}, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0.0, 0, [],
            [Process("fold", 1, 0.0, 0, 0, 0)], [Disk("fold", 0, 0)],
        )
        for n in range(count)
    ]  # fmt: skip
    nothing = dict.fromkeys(("min", "p50", "p90", "p99", "p99_9", "p99_99", "max"), 0.0)
    operations = [Operation("fold", "get", 0, 0, 0, 0.0, nothing, nothing, [])]
    reader = read(page(replace(outcome(), moments=idle, operations=operations)))
    assert counted(reader, "svg") == 10
    assert counted(reader, "circle") == (14 if count == 1 else 0)


def test_workers_that_died_by_themselves_are_marked() -> None:
    """A restart without a kill shortly before it has a mark; one after a kill has none besides."""
    run = replace(outcome(), kills=[Kill(5.0, "fold", 88.8)])
    run.moments[:] = [
        moment(float(n), restarts=(n >= 6) + (n >= 40)) for n in range(1, 61)
    ]  # fmt: skip
    text = read(page(run)).text
    assert "40 s: a worker was started anew" in text
    assert "6 s: a worker was started anew" not in text


def test_long_runs_are_thinned_and_keep_their_maxima() -> None:
    """Of 1,800 moments no more than 200 points are drawn, the page says so, each spike is there,
    the mean rate is kept, and the page is under a MiB."""
    generator = random.Random(5)
    moments = [
        moment(
            float(n + 1), p99_ms=10 + generator.random(), stores={"fold": generator.randrange(99)}
        )
        for n in range(1800)
    ]
    moments[777] = moment(778.0, p99_ms=4321.0, stores={"fold": 0}, waiting=55)
    whole = page(replace(outcome(), moments=moments))
    text = read(whole).text
    assert "Each point stands for 9 seconds" in text
    drawn = values(whole, "99th percentile")
    assert len(drawn) == 200
    assert max(drawn) == 4321
    assert max(values(whole, "overdue")) == 55
    rates = values(whole, "fold")[:200]
    meant = sum(m.stores["fold"] for m in moments) / 1800
    assert sum(rates) / 200 == pytest.approx(meant, rel=0.01)
    assert len(whole) < 1 << 20
