"""Indexes of a class that ends its worker, with real processes."""

import os
from pathlib import Path

import pytest

import holdfast

DEADLY = """
import json, os
import numpy as np

class Deadly:
    INDEX_TYPE = "deadly"

    def __init__(self, dimension, metric):
        self.dimension, self.metric, self.rows = dimension, metric, {}

    def __len__(self):
        return len(self.rows)

    def __contains__(self, id):
        return id in self.rows

    def insert(self, id, vector, metadata):
        if vector[0] == 666 and os.path.exists(__file__ + ".armed"):
            os._exit(3)
        self.rows[id] = vector.tolist()

    def delete(self, id):
        del self.rows[id]

    def search(self, vector, k):
        found = [(float(np.abs(np.array(row) - vector).sum()), id) for id, row in self.rows.items()]
        return [(id, distance) for distance, id in sorted(found)[:k]]

    def save_to(self, writer):
        rows = [self.dimension, self.metric, list(self.rows.items())]
        writer.write(json.dumps(rows).encode())

    @classmethod
    def load_from(cls, reader):
        dimension, metric, rows = json.loads(reader.read())
        index = cls(dimension, metric)
        index.rows = dict(rows)
        return index
"""
KIND = "deadly_class:Deadly"


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The class, importable, and the file by which it is armed, which is not there yet."""
    (tmp_path / "deadly_class.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "deadly_class.py.armed"


def test_a_write_that_ends_every_worker_is_given_up_and_the_rest_served(
    tmp_path: Path, armed: Path
) -> None:
    """Its caller gets ``WorkerCrashed``; what was acknowledged is there, now and when reopened."""
    armed.touch()
    with holdfast.open(tmp_path / "data") as engine:
        index = engine.index("i", kind=KIND, dimension=2)
        index.insert_batch([1, 2], [[1, 1], [2, 2]])
        for _ in range(2):
            with pytest.raises(holdfast.WorkerCrashed, match="exit"):
                index.insert_batch([3, 4], [[3, 3], [666, 0]])
            assert index.search([2, 2], 5).ids.tolist() == [2, 1]
        index.insert(5, [5, 5])
    with holdfast.open(tmp_path / "data") as engine:
        assert engine.index("i", kind=KIND).search([0, 0], 5).ids.tolist() == [1, 2, 5]


def test_a_salvage_opens_what_an_acknowledged_record_keeps_shut(
    tmp_path: Path, armed: Path
) -> None:
    """Opened as usual it fails and keeps its files; salvaged, it has all but that request."""
    with holdfast.open(tmp_path / "data") as engine:
        index = engine.index("i", kind=KIND, dimension=2)
        index.insert(1, [1, 1])
        index.insert_batch([2, 3], [[2, 2], [666, 0]])
        index.insert(4, [4, 4])
    armed.touch()
    log = tmp_path / "data" / "i.iqdb.wal"
    before = log.read_bytes()
    with holdfast.open(tmp_path / "data") as engine:
        with pytest.raises(holdfast.StoreFailed, match="salvage"):
            engine.index("i", kind=KIND)
        assert log.read_bytes() == before
        index = engine.index("i", kind=KIND, salvage=True)
        assert index.search([0, 0], 5).ids.tolist() == [1, 4]
    assert os.path.getsize(f"{log}.cut1") > 0
    with holdfast.open(tmp_path / "data") as engine:
        assert engine.index("i", kind=KIND).count() == 2
