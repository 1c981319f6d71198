"""Branches of ours in the hands of the original, and of its own in ours."""

from pathlib import Path

import pytest

import holdfast
from holdfast.formats.rvf.terms import Metric
from tests.interop.original import Original, OriginalError
from tests.interop.ours import (
    DIMENSION,
    Rows,
    check_ours,
    check_theirs,
    engine_in,
    metadata_of,
    nearest,
    put,
    random_vectors,
    remove,
)

PARENT_CHANGED = "0x0601"
METRICS: dict[Metric, str] = {"l2": "l2", "ip": "inner_product", "cosine": "cosine"}


@pytest.mark.parametrize("metric", METRICS)
def test_it_sees_our_branch_as_we_do(metric: Metric, original: Original, tmp_path: Path) -> None:
    """Inherited, own, overridden and deleted rows; it writes to the branch, and we go on."""
    parent_rows: Rows = {}
    vectors = random_vectors(200, 1)
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION, metric=metric)
        parent.ingest(range(100), vectors[:100], metadata={"n": list(range(100))})
        put(parent_rows, range(100), vectors[:100])
        parent.delete([90, 91])
        remove(parent_rows, [90, 91])
        child = parent.branch("child")
        rows = dict(parent_rows)
        check_ours(child, rows)
        with original.open(tmp_path / "child.rvf", read_only=True) as there:
            check_theirs(there, rows, metric)
        child.ingest([0, 1, 500], vectors[100:103], metadata={"n": [1000, 1001, 1500]})
        put(rows, [0, 1, 500], vectors[100:103])
        child.delete([1, 2, 3])
        remove(rows, [1, 2, 3])
        child.ingest([3, 90], vectors[103:105])
        put(rows, [3, 90], vectors[103:105])
        check_ours(child, rows)
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows, metric)
        there.ingest([4, 600, 601], vectors[110:113])
        put(rows, [4, 600, 601], vectors[110:113])
        assert there.delete([0, 5, 601]) == 3
        remove(rows, [0, 5, 601])
        check_theirs(there, rows, metric)
    with original.open(tmp_path / "parent.rvf", read_only=True) as there:
        check_theirs(there, parent_rows, metric)
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        check_ours(child, rows)
        check_ours(engine.vectors("parent"), parent_rows)
        assert metadata_of(child)[500] == {"n": 1500}
        assert metadata_of(child)[600] == {"n": None}
        child.delete([6, 600])
        remove(rows, [6, 600])
        child.compact()
        check_ours(child, rows)
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows, metric)
        there.ask("compact")
        check_theirs(there, rows, metric)
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        check_ours(child, rows)
        assert child.identity().origin == "branch"
        assert child.cow_stats().is_cow_child
        assert metadata_of(child)[500] == {"n": 1500}


@pytest.mark.parametrize("metric", METRICS)
def test_we_see_its_branch_as_it_does(metric: Metric, original: Original, tmp_path: Path) -> None:
    """The same with a branch that the original made, and deletes and compactions on both sides."""
    parent_rows: Rows = {}
    vectors = random_vectors(200, 1)
    with original.create(tmp_path / "parent.rvf", DIMENSION, METRICS[metric]) as there:
        there.ingest(range(100), vectors[:100])
        put(parent_rows, range(100), vectors[:100])
        there.delete([90, 91])
        remove(parent_rows, [90, 91])
        rows = dict(parent_rows)
        with there.branch(tmp_path / "child.rvf") as child:
            child.ingest([0, 1, 500], vectors[100:103])
            put(rows, [0, 1, 500], vectors[100:103])
            child.delete([1, 2, 3])
            remove(rows, [1, 2, 3])
            check_theirs(child, rows, metric)
    with engine_in(tmp_path) as engine:
        ours = engine.vectors("child")
        assert ours.metric == metric
        check_ours(ours, rows)
        check_ours(engine.vectors("parent"), parent_rows)
        ours.ingest([2, 4, 600], vectors[110:113])
        put(rows, [2, 4, 600], vectors[110:113])
        ours.delete([0, 5])
        remove(rows, [0, 5])
        check_ours(ours, rows)
        lineage = ours.lineage()
        assert lineage.identity.origin == "branch"
        assert [ancestor.problem for ancestor in lineage.ancestors] == [None]
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows, metric)
        there.delete([7, 600])
        remove(rows, [7, 600])
        there.ask("compact")
        check_theirs(there, rows, metric)
    with engine_in(tmp_path) as engine:
        ours = engine.vectors("child")
        check_ours(ours, rows)
        ours.compact()
        check_ours(ours, rows)
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows, metric)
    with original.open(tmp_path / "parent.rvf", read_only=True) as there:
        check_theirs(there, parent_rows, metric)


def test_only_we_read_a_branch_whose_parent_went_on(original: Original, tmp_path: Path) -> None:
    """Ours pins a commit. The original gives up on a branch once its parent was written to."""
    parent_rows: Rows = {}
    vectors = random_vectors(30, 1)
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION)
        parent.ingest(range(20), vectors[:20])
        put(parent_rows, range(20), vectors[:20])
        rows = dict(parent_rows)
        parent.branch("child")
    with original.open(tmp_path / "parent.rvf") as there:
        there.ingest([20], vectors[20:21])
        put(parent_rows, [20], vectors[20:21])
        there.delete([0])
        remove(parent_rows, [0])
    with engine_in(tmp_path) as engine:
        check_ours(engine.vectors("child"), rows)
        check_ours(engine.vectors("parent"), parent_rows)
    with pytest.raises(OriginalError, match=PARENT_CHANGED):
        original.open(tmp_path / "child.rvf")


def test_we_read_its_branch_when_its_parent_went_on(original: Original, tmp_path: Path) -> None:
    """A branch of the original's own, which it cannot open any more itself, shows all its rows."""
    vectors = random_vectors(30, 1)
    rows: Rows = {}
    with original.create(tmp_path / "parent.rvf", DIMENSION) as there:
        there.ingest(range(20), vectors[:20])
        put(rows, range(20), vectors[:20])
        there.branch(tmp_path / "child.rvf").close()
        there.ingest([20], vectors[20:21])
    with pytest.raises(OriginalError, match=PARENT_CHANGED):
        original.open(tmp_path / "child.rvf")
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        check_ours(child, rows)
        child.ingest([0], vectors[25:26])
        put(rows, [0], vectors[25:26])
        check_ours(child, rows)


def test_a_branch_that_it_made_keeps_our_store_from_compacting(
    original: Original, tmp_path: Path
) -> None:
    """The parent tells of no branches of the original's, so they are looked for beside it."""
    vectors = random_vectors(30, 1)
    parent_rows: Rows = {}
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION)
        parent.ingest(range(20), vectors[:20])
        put(parent_rows, range(20), vectors[:20])
    rows = dict(parent_rows)
    with original.open(tmp_path / "parent.rvf") as there:
        there.branch(tmp_path / "child.rvf").close()
        there.derive(tmp_path / "derived.rvf").close()
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent")
        parent.ingest([0], vectors[20:21])
        put(parent_rows, [0], vectors[20:21])
        with pytest.raises(holdfast.HasBranches, match="child"):
            parent.compact()
        with pytest.raises(holdfast.HasBranches, match="child"):
            engine.drop("parent")
        check_ours(engine.vectors("child"), rows)
        engine.drop("child")
        parent.compact()
        check_ours(parent, parent_rows)


def test_a_parent_that_it_compacted_is_missed(original: Original, tmp_path: Path) -> None:
    """Its compaction of a parent takes the rows from every branch: we say so and serve nothing."""
    vectors = random_vectors(20, 1)
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION)
        parent.ingest(range(20), vectors)
        parent.branch("child")
        with pytest.raises(holdfast.HasBranches):
            parent.compact()
    with original.open(tmp_path / "parent.rvf") as there:
        there.ask("compact")
    with pytest.raises(OriginalError, match=PARENT_CHANGED):
        original.open(tmp_path / "child.rvf")
    with engine_in(tmp_path) as engine, pytest.raises(holdfast.ParentChanged):
        engine.vectors("child")


def test_it_sees_deeper_branches_of_ours(original: Original, tmp_path: Path) -> None:
    """A grandchild shows it everything, unless it filters: that leaves the grandparent out.

    Of a grandchild that it made itself it never sees more than the nearest two files.
    """
    vectors = random_vectors(50, 1)
    rows: Rows = {}
    with engine_in(tmp_path) as engine:
        top = engine.vectors("top", dimension=DIMENSION)
        top.ingest(range(10), vectors[:10])
        put(rows, range(10), vectors[:10])
        middle = top.branch("middle")
        middle.ingest(range(10, 20), vectors[10:20])
        bottom = middle.branch("bottom")
        bottom.ingest(range(20, 30), vectors[20:30])
        put(rows, range(10, 30), vectors[10:30])
        bottom.ingest([0, 10], vectors[30:32])
        put(rows, [0, 10], vectors[30:32])
        bottom.delete([1, 11])
        remove(rows, [1, 11])
        check_ours(bottom, rows)
    with original.open(tmp_path / "bottom.rvf") as there:
        there.ingest([40], vectors[40:41])
        put(rows, [40], vectors[40:41])
        there.delete([2, 12, 22])
        remove(rows, [2, 12, 22])
        assert [number for number, _ in there.query(vectors[0], 100)] == nearest(rows, vectors[0])
        nearby = {number: row for number, row in rows.items() if number not in range(1, 10)}
        assert there.distances(vectors[0]).keys() == nearby.keys()
    with engine_in(tmp_path) as engine:
        check_ours(engine.vectors("bottom"), rows)


def test_it_sees_only_own_rows_of_a_branch_it_has_no_way_to_read(
    original: Original, tmp_path: Path
) -> None:
    """With large ids in the parent, or the parent elsewhere, it reads and writes own rows."""
    vectors = random_vectors(20, 1)
    (tmp_path / "elsewhere").mkdir()
    rows: dict[str, Rows] = {}
    own: Rows = {}
    put(own, [1, 2], vectors[2:4])
    with engine_in(tmp_path) as engine:
        for name, largest, place in (("large", 4_000_000_000, ""), ("far", 5, "elsewhere")):
            path = tmp_path / place / f"parent-{name}.rvf"
            parent = engine.vectors(f"parent-{name}", dimension=DIMENSION, path=path)
            parent.ingest([1, largest], vectors[:2])
            child = parent.branch(name)
            child.ingest([1, 2], vectors[2:4])
            rows[name] = {largest: vectors[1], **own}
            check_ours(child, rows[name])
    for name in rows:
        with original.open(tmp_path / f"{name}.rvf") as there:
            check_theirs(there, own)
            there.ingest([3], vectors[4:5])
            check_theirs(there, {**own, 3: vectors[4]})
    with engine_in(tmp_path) as engine:
        for name, expected in rows.items():
            child = engine.vectors(name)
            put(expected, [3], vectors[4:5])
            check_ours(child, expected)
            child.delete([2])
            remove(expected, [2])
            child.compact()
            check_ours(child, expected)
    for name in rows:
        with original.open(tmp_path / f"{name}.rvf") as there:
            there.ask("compact")
            check_theirs(there, {1: vectors[2], 3: vectors[4]})
    with engine_in(tmp_path) as engine:
        for name, expected in rows.items():
            check_ours(engine.vectors(name), expected)


def test_a_branch_of_its_own_keeps_its_bitmap_whatever_the_ids(
    original: Original, tmp_path: Path
) -> None:
    """Its branches are found by bitmap and reference alone, so we keep both however long."""
    vectors = random_vectors(20, 1)
    rows: Rows = {}
    with original.create(tmp_path / "parent.rvf", DIMENSION) as there:
        there.ingest([1, 2, 10_000_000], vectors[:3])
        put(rows, [1, 2, 10_000_000], vectors[:3])
        there.branch(tmp_path / "child.rvf").close()
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        check_ours(child, rows)
        child.delete([2])
        remove(rows, [2])
        child.ingest([5], vectors[5:6])
        put(rows, [5], vectors[5:6])
        check_ours(child, rows)
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        child = engine.vectors("child")
        child.compact()
        check_ours(child, rows)
    with original.open(tmp_path / "child.rvf") as there:
        check_theirs(there, rows)


def test_derived_files_keep_their_descent(original: Original, tmp_path: Path) -> None:
    """Derived files are empty on both sides and name the same parent."""
    with engine_in(tmp_path) as engine:
        parent = engine.vectors("parent", dimension=DIMENSION)
        parent.ingest(range(5), random_vectors(5, 1))
        ours = parent.derive("ours", "a test")
        identity = ours.identity()
        check_ours(ours, {})
    with original.open(tmp_path / "ours.rvf") as there:
        found = there.ask("identity")
        assert found["fileId"] == identity.file_id
        assert found["parentId"] == identity.parent_id
        assert found["depth"] == 1
        check_theirs(there, {})
    with (
        original.open(tmp_path / "parent.rvf") as there,
        there.derive(tmp_path / "theirs.rvf") as derived,
    ):
        found = derived.ask("identity")
    with engine_in(tmp_path) as engine:
        theirs = engine.vectors("theirs")
        check_ours(theirs, {})
        assert theirs.identity().parent_id == found["parentId"] == identity.parent_id
        assert theirs.identity().origin == "derived"
        assert [ancestor.problem for ancestor in theirs.lineage().ancestors] == [None]
