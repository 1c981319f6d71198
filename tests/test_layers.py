"""The rules between the layers, checked on the source text of every module.

engine -> workers -> formats is the only direction imports go; bench stands above all three. Files
are touched through workers/disk.py alone, since that is where a test can put a failing disk, and
formats/ is a set of pure functions over bytes. The rules are checked without importing anything, so
a module that breaks one is reported even when it does not load.
"""

import ast
import builtins
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LAYER = "workers/disk.py"
COMMAND_LINE = "engine/cli_trials.py"

# The house aim is 300 and 40. These are the bounds past which a module or a function is not merged.
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80

MAY_IMPORT = {
    "formats": {"formats"},
    "workers": {"formats", "workers"},
    "engine": {"formats", "workers", "engine"},
    "bench": {"formats", "workers", "engine", "bench"},
}
FORMATS_LIBRARIES = {"blake3", "isal", "lz4", "msgspec", "numpy", "pyarrow", "zstandard"}

# Loading any of these runs code that the data names, and the data may come from a damaged disk.
UNSAFE_SERIALISERS = {"cPickle", "cloudpickle", "dill", "marshal", "pickle", "shelve"}

_OS_FILE_CALLS = """
    access chflags chmod chown copy_file_range fchmod fchown fdatasync fdopen fstat fstatvfs fsync
    ftruncate fwalk getxattr lchflags lchmod lchown link listdir listxattr lockf lseek lstat
    makedirs mkdir mkfifo mknod open posix_fadvise posix_fallocate pread preadv pwrite pwritev read
    readinto readlink readv remove removedirs removexattr rename renames replace rmdir scandir
    sendfile setxattr splice stat statvfs symlink sync truncate unlink utime walk write writev
    path.exists path.getatime path.getctime path.getmtime path.getsize path.isdir path.isfile
    path.islink path.ismount path.lexists path.realpath path.samefile
""".split()  # noqa: SIM905 - as a list it would be one name a line, seventy lines
# pathlib.Path is here as a whole: what a variable holds cannot be told from the text, so outside
# the file layer a path is a str or a PurePath, neither of which can reach a file.
FILE_ACCESS = {f"os.{name}" for name in _OS_FILE_CALLS} | {
    "builtins.open",
    "codecs.open",
    "fileinput",
    "glob",
    "io.FileIO",
    "io.open",
    "isal.igzip.open",
    "logging.FileHandler",
    "logging.handlers",
    "lz4.frame.LZ4FrameFile",
    "lz4.frame.open",
    "mmap.mmap",
    "numpy.fromfile",
    "numpy.load",
    "numpy.memmap",
    "numpy.save",
    "numpy.savez",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pyarrow.OSFile",
    "pyarrow.create_memory_map",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.memory_map",
    "pyarrow.parquet",
    "shutil",
    "tempfile",
    "zstandard.open",
}
# For a Path that arrives from elsewhere: method names that nothing but a Path has.
PATH_METHODS = {
    "hardlink_to",
    "is_symlink",
    "iterdir",
    "read_bytes",
    "read_text",
    "rglob",
    "symlink_to",
    "write_bytes",
    "write_text",
}
IMPURE = FILE_ACCESS | {
    "_thread",
    "asyncio",
    "builtins.input",
    "builtins.print",
    "concurrent",
    "ctypes",
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "fcntl",
    "http",
    "logging",
    "mmap",
    "multiprocessing",
    "numpy.random",
    "os",
    "posix",
    "pyarrow.flight",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "sys.stderr",
    "sys.stdin",
    "sys.stdout",
    "threading",
    "time",
    "urllib",
    "uuid.uuid1",
    "uuid.uuid4",
}


@dataclass(frozen=True)
class Module:
    """One source file; ``path`` is relative to the project, with forward slashes."""

    path: str
    source: str

    @property
    def layer(self) -> str:
        return self.path.split("/")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    @cached_property
    def lines_run_later(self) -> set[int]:
        """Lines inside a function, which importing the module does not run."""
        return {
            line
            for function in self.functions
            for line in range(function.body[0].lineno, (function.end_lineno or 0) + 1)
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """What each name in the module stands for, as a dotted name."""
        found = {name: f"builtins.{name}" for name in dir(builtins)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name] = f"{self.path}.{node.name}"  # the module's own hides a builtin
        return found

    def dotted(self, node: ast.expr) -> str | None:
        """The dotted name that an expression such as ``os.path.join`` stands for."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute) and (base := self.dotted(node.value)):
            return f"{base}.{node.attr}"
        return None

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of every import, also of one made by a call."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            elif (
                isinstance(node, ast.Call)
                and self.dotted(node.func) in {"importlib.import_module", "builtins.__import__"}
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield node.lineno, str(node.args[0].value)

    def uses(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of every import and every mention, called or not."""
        yield from self.imports()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name | ast.Attribute) and (name := self.dotted(node)):
                yield node.lineno, name

    def complaints(self, found: Iterator[tuple[int, str]]) -> list[str]:
        """One text for each line and finding, in the order of the lines."""
        return [f"{self.path}:{line}: {text}" for line, text in sorted(set(found))]


def matches(name: str, banned: set[str]) -> bool:
    """Whether a dotted name is one of ``banned`` or inside one of them."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in banned for length in range(1, len(parts) + 1))


def layer_of(name: str) -> str | None:
    """The layer that a dotted name belongs to, or None for somebody else's module."""
    parts = [*name.split("."), ""]
    if parts[0] != "holdfast":
        return None
    return parts[1] if parts[1] in {"bench", "formats", "workers"} else "engine"


def upward_imports(module: Module) -> list[str]:
    """Imports that go up a layer, are relative, or bring a library into formats/."""

    def find() -> Iterator[tuple[int, str]]:
        for line, name in module.imports():
            layer = layer_of(name)
            top = name.split(".")[0]
            if name.startswith("."):
                yield line, f"relative import {name}"
            elif layer is None:
                known = top in sys.stdlib_module_names or top in FORMATS_LIBRARIES
                if module.layer == "formats" and not known:
                    yield line, f"formats may not import {top}"
            elif layer not in MAY_IMPORT[module.layer]:
                # The command line is useful without the benchmarks, and must start without them.
                late = module.path == COMMAND_LINE and line in module.lines_run_later
                if not (layer == "bench" and late):
                    yield line, f"{module.layer} may not import {name}"

    return module.complaints(find())


def stray_file_access(module: Module) -> list[str]:
    """Ways to a file that go past the file layer of workers/."""
    if module.layer != "workers" or module.path == FILE_LAYER:
        return []

    def find() -> Iterator[tuple[int, str]]:
        for line, name in module.uses():
            if matches(name, FILE_ACCESS):
                yield line, f"{name} outside {FILE_LAYER}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in PATH_METHODS:
                yield node.lineno, f".{node.attr} outside {FILE_LAYER}"

    return module.complaints(find())


def impure_formats(module: Module) -> list[str]:
    """I/O, clocks, chance and threads in formats/."""
    if module.layer != "formats":
        return []
    return module.complaints(
        (line, f"formats may not use {name}")
        for line, name in module.uses()
        if matches(name, IMPURE)
    )


def oversized(module: Module) -> list[str]:
    """Modules and functions too long to be read in one sitting."""

    def find() -> Iterator[tuple[int, str]]:
        length = len(module.source.splitlines())
        if length > MODULE_LINES_MAX:
            yield 1, f"{length} lines, the most is {MODULE_LINES_MAX}"
        for function in module.functions:
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield (
                    function.lineno,
                    f"{function.name} has {length} lines, the most is {FUNCTION_LINES_MAX}",
                )

    return module.complaints(find())


def unsafe_serialisers(module: Module) -> list[str]:
    """Imports of a serialiser whose loader can be made to run code."""
    return module.complaints(
        (line, f"imports {name}")
        for line, name in module.imports()
        if matches(name, UNSAFE_SERIALISERS)
    )


Rule = Callable[[Module], list[str]]
RULES: list[Rule] = [
    upward_imports,
    stray_file_access,
    impure_formats,
    oversized,
    unsafe_serialisers,
]


def project_modules() -> list[Module]:
    """Every module of the four layers."""
    return [
        Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for layer in sorted(MAY_IMPORT)
        for path in sorted((ROOT / layer).rglob("*.py"))
    ]


def test_the_checker_reads_every_layer() -> None:
    """The rules below are not kept merely because a folder was not found."""
    found = {module.path for module in project_modules()}
    assert {f"{layer}/__init__.py" for layer in MAY_IMPORT} <= found
    assert FILE_LAYER in found


def label(value: Rule | str) -> str:
    """How a case is named in the report; some sources are hundreds of lines."""
    return value[:40] if isinstance(value, str) else value.__name__


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_the_project_keeps_the_rule(rule: Rule) -> None:
    """No module of the project breaks the rule."""
    complaints = [complaint for module in project_modules() for complaint in rule(module)]
    assert not complaints, "\n".join(complaints)


LONG_FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX
PLANTED: list[tuple[Rule, str, str, str]] = [
    (upward_imports, "formats/a.py", "import typer", "import typer"),
    (upward_imports, "formats/a.py", "import holdfast.workers.disk", "holdfast.workers.disk"),
    (upward_imports, "formats/a.py", "from holdfast import workers", "holdfast.workers"),
    (upward_imports, "formats/a.py", "from holdfast.workers import disk", "holdfast.workers.disk"),
    (upward_imports, "formats/a.py", "import sortedcontainers", "sortedcontainers"),
    (upward_imports, "workers/a.py", "import holdfast", "holdfast"),
    (upward_imports, "workers/a.py", "from holdfast import open", "holdfast.open"),
    (upward_imports, "workers/a.py", "from holdfast.handles import fold", "holdfast.handles.fold"),
    (upward_imports, "workers/a.py", "from holdfast.bench import x", "holdfast.bench.x"),
    (upward_imports, "workers/a.py", "def f():\n    import holdfast.cli", "a.py:2"),
    (
        upward_imports,
        "workers/a.py",
        "import importlib\nimportlib.import_module('holdfast.cli')",
        "holdfast.cli",
    ),
    (upward_imports, "workers/a.py", "from . import disk", "relative import"),
    (upward_imports, "engine/a.py", "def f():\n    import holdfast.bench", "holdfast.bench"),
    (upward_imports, "engine/cli_trials.py", "import holdfast.bench", "holdfast.bench"),
    (upward_imports, "engine/cli_trials.py", "from holdfast import bench", "holdfast.bench"),
    (stray_file_access, "workers/a.py", "open('x')", "builtins.open"),
    (stray_file_access, "workers/a.py", "import io\nio.open('x')", "io.open"),
    (stray_file_access, "workers/a.py", "import os\nos.open('x', 0)", "os.open"),
    (stray_file_access, "workers/a.py", "import os as o\no.fsync(1)", "os.fsync"),
    (stray_file_access, "workers/a.py", "from os import rename", "os.rename"),
    (stray_file_access, "workers/a.py", "from os import unlink as u\nu('x')", "os.unlink"),
    (stray_file_access, "workers/a.py", "import os\nclean = map(os.remove, [])", "os.remove"),
    (stray_file_access, "workers/a.py", "import os\nos.path.exists('x')", "os.path.exists"),
    (stray_file_access, "workers/a.py", "import os.path as p\np.isfile('x')", "os.path.isfile"),
    (stray_file_access, "workers/a.py", "import shutil", "shutil"),
    (stray_file_access, "workers/a.py", "def f():\n    import tempfile", "tempfile"),
    (stray_file_access, "workers/a.py", "import mmap\nmmap.mmap(0, 1)", "mmap.mmap"),
    (stray_file_access, "workers/a.py", "from pathlib import Path", "pathlib.Path"),
    (stray_file_access, "workers/a.py", "import pathlib\npathlib.Path('x')", "pathlib.Path"),
    (stray_file_access, "workers/a.py", "def f(p):\n    p.write_bytes(b'')", ".write_bytes"),
    (impure_formats, "formats/a.py", "open('x')", "builtins.open"),
    (impure_formats, "formats/a.py", "import os", "os"),
    (impure_formats, "formats/a.py", "from os.path import join", "os.path.join"),
    (impure_formats, "formats/a.py", "import time", "time"),
    (impure_formats, "formats/a.py", "from time import monotonic", "time.monotonic"),
    (
        impure_formats,
        "formats/a.py",
        "from datetime import datetime\ndatetime.now()",
        "datetime.datetime.now",
    ),
    (impure_formats, "formats/a.py", "import socket", "socket"),
    (impure_formats, "formats/a.py", "import subprocess", "subprocess"),
    (impure_formats, "formats/a.py", "import threading", "threading"),
    (impure_formats, "formats/a.py", "def f():\n    import random", "random"),
    (impure_formats, "formats/a.py", "import numpy as np\nnp.random.rand()", "numpy.random"),
    (impure_formats, "formats/a.py", "import pyarrow as pa\npa.OSFile('x')", "pyarrow.OSFile"),
    (oversized, "bench/a.py", "x = 1\n" * (MODULE_LINES_MAX + 1), "lines"),
    (oversized, "engine/a.py", LONG_FUNCTION, "f has 81 lines"),
    (oversized, "engine/a.py", f"async {LONG_FUNCTION}", "f has 81 lines"),
    (unsafe_serialisers, "engine/a.py", "import pickle", "pickle"),
    (unsafe_serialisers, "workers/a.py", "from pickle import loads", "pickle.loads"),
    (unsafe_serialisers, "formats/a.py", "def f():\n    import marshal", "marshal"),
    (unsafe_serialisers, "bench/a.py", "__import__('shelve')", "shelve"),
]
CLEAN: list[tuple[str, str]] = [
    ("formats/a.py", "import struct, numpy\nfrom holdfast.formats import frame"),
    ("formats/a.py", "import datetime\ndatetime.datetime.fromtimestamp(0, datetime.UTC)"),
    ("formats/a.py", "def f(time):\n    return time.random"),
    ("workers/a.py", "import holdfast.workers.disk\nfrom holdfast.formats import frame"),
    ("workers/a.py", "def f(disk):\n    disk.open('x').sync()\n    disk.rename('x', 'y')"),
    ("workers/a.py", "'a'.replace('a', 'b')"),
    ("workers/a.py", "import os\nos.getpid()\nos.path.join('a', 'b')\nos.close(3)"),
    ("workers/a.py", "from pathlib import PurePath\nPurePath('a')"),
    ("workers/a.py", "from holdfast.workers.disk import replace\nreplace()"),
    ("workers/a.py", "def open():\n    pass\nopen()"),
    ("workers/disk.py", "import os\nos.open('x', 0)\nopen('x')"),
    ("engine/a.py", "from pathlib import Path\nPath('x').exists()\nimport holdfast.workers"),
    ("engine/cli_trials.py", "def f():\n    from holdfast.bench import run"),
    ("bench/a.py", "import holdfast, time\nfrom holdfast.workers import disk"),
    ("bench/a.py", "x = 1\n" * MODULE_LINES_MAX),
    ("engine/a.py", "def f():\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)),
]


@pytest.mark.parametrize(("rule", "path", "source", "expected"), PLANTED, ids=label)
def test_a_planted_violation_is_found(rule: Rule, path: str, source: str, expected: str) -> None:
    """A module made to break the rule is reported, by its path and by what it does."""
    complaints = rule(Module(path, source))
    assert any(expected in complaint for complaint in complaints), complaints
    assert all(complaint.startswith(f"{path}:") for complaint in complaints)


@pytest.mark.parametrize(("path", "source"), CLEAN, ids=label)
def test_permitted_code_passes(path: str, source: str) -> None:
    """Code that keeps every rule is not reported, however close it looks to a violation."""
    assert [complaint for rule in RULES for complaint in rule(Module(path, source))] == []
