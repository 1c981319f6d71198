"""Every parser is fuzzed: none is forgotten, and what fuzzing has found stays found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.bench.fuzz import corpus
from holdfast.bench.fuzz.parsers import OTHERS, PARSERS, Parser, refusal
from holdfast.bench.fuzz.seeds import seeds
from holdfast.formats.errors import InvalidFormat

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "fuzz"


def test_no_format_is_forgotten() -> None:
    """Each module of formats/ has a parser here, or a reason why it has none."""
    modules = {
        ".".join(path.relative_to(ROOT / "formats").with_suffix("").parts)
        for path in (ROOT / "formats").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules == PARSERS.keys() | OTHERS.keys()
    assert not PARSERS.keys() & OTHERS.keys()


def test_every_parser_has_inputs_that_it_accepts() -> None:
    """Fuzzing begins with at least one input that a parser takes, so it gets past the header."""
    assert {name for name, inputs in seeds().items() if not inputs} == set()


@pytest.mark.parametrize("sort", ["true", "weak"])
def test_the_kept_inputs_are_parsed(sort: str) -> None:
    """Each input that is kept gives a value or a typed error, with true checksums and weak ones."""
    options = ["--weak"] if sort == "weak" else []
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.bench.fuzz", "--replay", *options, "--corpus", CORPUS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["refused"] < found["inputs"]


def test_the_corpus_is_small_and_whole() -> None:
    """Each parser has its file of inputs, none of which is larger than it may be."""
    files = {path.name.removesuffix(".msgpack"): path for path in CORPUS.iterdir()}
    assert files.keys() == PARSERS.keys()
    for name, path in files.items():
        assert path.stat().st_size <= corpus.FILE_BYTES_MAX + 8, name
        assert corpus.load(str(CORPUS), name), name


def test_an_error_that_is_not_typed_passes() -> None:
    """Only the errors that a parser may raise count as a refusal."""

    def parse(data: bytes) -> None:
        raise InvalidFormat("no") if data else IndexError("a defect")

    assert isinstance(refusal(Parser(parse), b"x"), InvalidFormat)
    with pytest.raises(IndexError):
        refusal(Parser(parse), b"")


def test_the_smallest_inputs_are_kept(tmp_path: Path) -> None:
    """Of more than fit the smallest are kept, each once, and they are read again."""
    inputs = [bytes(size) for size in (9000, 5, 9, 5, 8000)]
    corpus.save(str(tmp_path), "x", inputs)
    assert corpus.load(str(tmp_path), "x") == [bytes(5), bytes(9), bytes(8000)]
    assert corpus.load(str(tmp_path), "y") == []
    corpus.unpack([b"a", b"b"], str(tmp_path / "files"))
    assert sorted(corpus.collect(str(tmp_path / "files"))) == [b"a", b"b"]


@pytest.mark.skipif("HOLDFAST_FUZZ" not in os.environ, reason="needs the extra fuzz: make fuzz")
def test_the_fuzzer_finds_a_defect(tmp_path: Path) -> None:
    """The fuzzer, pointed at a parser with a planted defect, says so and keeps the input."""
    import shutil

    import holdfast

    package = tmp_path / "holdfast"
    shutil.copytree(Path(str(holdfast.__file__)).parent, package)
    frame = package / "formats" / "frame.py"
    text = frame.read_text(encoding="utf-8")
    frame.unlink()
    planted = '    if bytes(buffer[4:6]) == b"!?":\n        raise IndexError\n    magic, version'
    assert "    magic, version" in text
    frame.write_text(text.replace("    magic, version", planted, 1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.bench.fuzz", "--parsers", "frame", "--runs", "200000",
         "--corpus", tmp_path / "corpus"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "IndexError" in done.stdout
    assert list(tmp_path.glob("frame-crash-*"))
