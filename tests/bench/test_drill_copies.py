"""`holdfast drill DIRECTORY`: copies of a user's stores are drilled, the originals only read."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.bench.drill import copies, sources, verdicts
from holdfast.bench.drill.checking import Broken, Harm
from holdfast.bench.drill.copies import Rehearsal
from holdfast.bench.drill.live_stores import open_store
from holdfast.bench.drill.plan import STORES, Clock, Plan
from holdfast.bench.drill.tally import Tally
from holdfast.formats.errors import InvalidArgument, StoreNotFound
from holdfast.workers.standing import Standing
from tests.bench.drilling import COUNTS, staged
from tests.engine.cli_runner import PROGRAM, Cli, snapshot

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, run in this process."""
    return Cli(monkeypatch, capsys)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A user's directory with a store of each kind, in which much was overwritten or deleted."""
    where = tmp_path / "user"
    with holdfast.open(where) as engine:
        fold = engine.fold("config")
        for number in range(5):
            changes = [holdfast.Put(f"key {number}", b"value"), holdfast.Put("n", b"%d" % number)]
            fold.apply(changes, holdfast.Cursor.from_u64(number))
        vectors = engine.vectors("docs", dimension=4, metric="l2")
        for turn in range(3):
            vectors.ingest(np.arange(8), np.random.default_rng(turn).random((8, 4), np.float32))
        vectors.delete([3])
        sensors = engine.warm("sensors", dimension=2)
        for turn in range(3):
            sensors.write(1, 0, np.arange(8), np.full((8, 2), turn, np.float32))
            sensors.flush()
        sensors.delete_range(1, 0, 0, 2)
        faces = engine.index("faces", kind="flat", dimension=4, metric="euclidean")
        for turn in range(3):
            faces.upsert_batch([1, 2, 3], np.full((3, 4), turn, np.float32))
        faces.delete(3)
        models = open_store("registry", engine, "models")
        models.write(0, "a text")
        models.write(0, "another")
    return where


_WATCH = """
import os, sys
WATCHED, NOTES = {watched!r}, {notes!r}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NAMED = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
         "os.chmod", "os.chown", "os.utime")

def watch(event, arguments):
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & CHANGES):
        return
    paths = arguments[:2] if event in NAMED else arguments[:1] if event == "open" else ()
    for path in paths:
        if not isinstance(path, (str, bytes)):
            continue
        if os.path.abspath(os.fsdecode(path)).startswith(WATCHED):
            note = os.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(note, f"{{event}} {{arguments}}\\n".encode())

sys.addaudithook(watch)
"""


def test_a_copy_is_drilled_and_the_original_only_read(tmp_path: Path, directory: Path) -> None:
    """Every kind of fault befalls a copy of every store, and no process of the run so much as opens
    a file of the original for writing."""
    before = snapshot(directory)
    hook, notes = tmp_path / "hook", tmp_path / "notes"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_WATCH.format(watched=str(directory), notes=str(notes)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [*PROGRAM, "drill", str(directory), "--seconds", "30", "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(hook)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (done.returncode, found["failures"]) == (0, []), found["failures"]
    assert not notes.exists(), notes.read_text()
    assert snapshot(directory) == before
    assert found["source"] == str(directory)
    assert found["stores"].keys() == set(STORES)
    for fault in (*COUNTS, "exchanged", "process_faults"):
        assert any(counts[fault] for counts in found["stores"].values()), (fault, found)
    assert found["timeline"], ("a soak beside the copies", found)
    (one,) = [p for p in found["promises"] if p["promise"] == verdicts.ON_COPIES.text]
    assert one["verdict"] == "held"
    assert list(scratch.iterdir()) == []


def test_an_empty_file_is_no_defect(cli: Cli, tmp_path: Path) -> None:
    """A log without a byte, as a crash may leave it, opens; what is damaged is what it has then."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "empty.snap").touch()
    done = cli("drill", source, "--faults", "damage,kill", "--seconds", "3", "--json")
    assert (done.code, done.json["failures"]) == (0, [])
    assert done.json["stores"]["fold"]["bit_flips"] > 0
    assert (source / "empty.snap").read_bytes() == b""


def _config(directory: Path) -> Rehearsal:
    store = next(one for one in sources.stores_in(str(directory)) if one.kind == "fold")
    return Rehearsal(store, sources.in_memory(str(directory)))


def test_a_store_that_loses_a_row_on_the_way_is_told(directory: Path) -> None:
    """A copy that does not hold after a crash what it held before is a failure."""
    rehearsal = _config(directory)
    assert rehearsal.broken_after(rehearsal.disk.crash()) is None
    less = rehearsal.disk.crash()
    content = less.content(rehearsal.path)
    assert content is not None
    less.place(rehearsal.path, content[:-20])
    broken = rehearsal.broken_after(less)
    assert broken is not None
    assert broken.harm in (Harm.LOST, Harm.WRONG)


def test_damage_that_is_called_clean_is_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every file is called clean, what cannot be opened or holds less gives that away."""
    rehearsal = _config(directory)
    truly = sources.holdings
    monkeypatch.setattr(
        "holdfast.bench.drill.copies.holdings",
        lambda *place: truly(*place)._replace(standing=Standing.CLEAN),
    )
    content = rehearsal.disk.content(rehearsal.path)
    assert content is not None
    found: list[Broken | None] = []
    for offset in range(len(content)):
        left = rehearsal.disk.crash()
        flipped = content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :]
        left.place(rehearsal.path, flipped)
        found.append(copies._judged("damage", rehearsal, left, "bit flipped"))
    assert any(broken is not None and "opening it raises" in broken.detail for broken in found)


def test_a_source_that_changes_is_told(tmp_path: Path, directory: Path) -> None:
    """If a file of the original has another size, time or inode at the end, the run says so."""
    plan = Plan(seed=1, work=str(tmp_path), source=str(directory))

    def meddle(tally: Tally, clock: Clock) -> None:
        (directory / "config.snap").write_bytes(b"other")

    outcome = staged(plan, meddle)
    assert [failure.promise for failure in outcome.tally.failures] == [sources.ORIGINAL]


def test_a_directory_in_use_or_without_stores_is_refused(tmp_path: Path, directory: Path) -> None:
    """A copy made while an engine writes would not be whole; and there has to be something."""
    with holdfast.open(directory), pytest.raises(InvalidArgument, match="an engine is running"):
        sources.check_source(str(directory))
    with pytest.raises(StoreNotFound, match="there is no store"):
        sources.check_source(str(tmp_path))
