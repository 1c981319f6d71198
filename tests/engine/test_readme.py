"""The examples of the README do what they say, as often as they are run."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parent.parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def _promised(block: str) -> list[str]:
    """What the comments behind ``print`` say that it prints."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", block, re.M)


def _has_what_it_needs(block: str) -> bool:
    """Whether the libraries of others that it uses are there: they are not among our own needs."""
    needed = {"import duckdb": "duckdb", ".to_pandas()": "pandas"}
    return all(find_spec(name) for used, name in needed.items() if used in block)


def test_every_example_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, and then all again in the same directory, print what is beside them."""
    blocks = [block for block in BLOCKS if _has_what_it_needs(block)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    promised = 0
    for _ in range(2):
        names: dict[str, Any] = {}
        for block in blocks:
            module = re.match(r"# (\w+\.py)\n", block)
            if module is not None:
                (tmp_path / module[1]).write_text(block, encoding="utf-8")
                continue
            exec(compile(block, "README.md", "exec"), names)
            printed = capsys.readouterr().out
            for text in _promised(block):
                assert text in printed, block
                promised += 1
    assert promised >= 12
