"""Exports of warm stores: what is in their way, and what they leave when they are given up."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from holdfast.formats.errors import ArtifactInvalid, HoldfastError, StoreExists
from holdfast.formats.points import METADATA
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR
from holdfast.handles.warm_transfer import PartitionWriter
from holdfast.workers.disk import OsDisk
from holdfast.workers.stages import STAGE_SUFFIX


def _points() -> pa.Table:
    return pa.table(
        {
            SPACE: np.array([7], np.uint32),
            ENTITY: np.array([1], np.uint64),
            TIMESTAMP: np.array([5], np.int64),
            VECTOR: pa.array([[1.0]], pa.list_(pa.float32(), 1)),
            METADATA: pa.array([{}], pa.map_(pa.string(), pa.string())),
        }
    )


def _export(directory: Path) -> None:
    writer = PartitionWriter(str(directory), "parquet")
    try:
        writer.write(_points())
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_name_like_the_export_s_is_left_alone(tmp_path: Path) -> None:
    """Beside the destination only what an export itself has left is removed."""
    precious = tmp_path / "out.tmp" / "precious"
    precious.mkdir(parents=True)
    (tmp_path / f".out{STAGE_SUFFIX}").mkdir()
    (tmp_path / f".out{STAGE_SUFFIX}" / "lock").touch()  # a process died here
    _export(tmp_path / "out")
    assert precious.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["out", "out.tmp"]
    assert _files(tmp_path / "out") == ["space=7", "space=7/part-00000.parquet"]


def test_a_second_export_to_the_same_place_is_refused(tmp_path: Path) -> None:
    """The first goes on to its end; then the place is taken."""
    out = tmp_path / "out"
    first = PartitionWriter(str(out), "arrow")
    first.write(_points())
    with pytest.raises(ArtifactInvalid, match="in use by another export"):
        PartitionWriter(str(out), "arrow")
    assert first.finish().files == ["space=7/part-00000.arrow"]
    assert (out / "space=7" / "part-00000.arrow").is_file()
    with pytest.raises(StoreExists):
        PartitionWriter(str(out), "arrow")
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_destination_stays_until_the_end(tmp_path: Path) -> None:
    """An export that is given up leaves it as it was; one that succeeds takes its place."""
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    before = out.stat().st_ino
    writer = PartitionWriter(str(out), "parquet")
    writer.write(_points())
    assert out.stat().st_ino == before
    writer.discard()
    assert out.stat().st_ino == before
    assert os.listdir(tmp_path) == ["out"]
    _export(out)
    assert _files(out) == ["space=7", "space=7/part-00000.parquet"]


def test_what_takes_the_place_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's directory is no part of the export, and nothing of the export is left."""
    out = tmp_path / "out"
    writer = PartitionWriter(str(out), "parquet")
    writer.write(_points())
    (out / "precious").mkdir(parents=True)
    with pytest.raises(StoreExists):
        writer.finish()
    writer.discard()
    assert _files(tmp_path) == ["out", "out/precious"]


@pytest.mark.parametrize("call", ["create", "make_directory", "rename", "sync_directory"])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The error is typed, an empty destination is there still, and a second attempt succeeds."""

    def refused(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(OsDisk, call, refused)
        with pytest.raises(HoldfastError, match="EIO"):
            _export(out)
    assert not out.exists()
    _export(out)
    assert os.listdir(tmp_path) == ["out"]
