"""An independent look at the file layer: what the kernel saw against what the layer was asked.

An engine runs under ``strace``, with every process it starts. A ``sitecustomize`` module on its
path wraps the one file layer, in which each process then writes down what it is asked to change.
Both lists, of each thread, have to be the same: a call that only the kernel knows of went past the
layer, and no drill would have met it.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast.bench.drill.hosts import Host
from holdfast.bench.drill.live import LiveScenario
from holdfast.bench.drill.scene import Scene, Setting
from holdfast.bench.drill.serving import kill, serving, title_of

PROMISE = "every file a worker touches, it touches through the one file layer"
TRACED = (
    "openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,"
    "fdatasync,msync,mmap,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,"
    "rmdir,link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,"
    "copy_file_range,sendfile,splice,utimensat,setxattr,fsetxattr"
)
_RECORDER = '''
"""Writes down what the file layer is asked to change, for each thread, in a file of its own."""
import os, threading
from holdfast.workers import disk

def note(call, path):
    name = os.path.join({folder!r}, str(threading.get_native_id()))
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{{call}} {{path}}\\n".encode())
    os.close(file)

def wrap(owner, name, call, path_of):
    inner = getattr(owner, name)
    def wrapped(self, *arguments, **options):
        if call != "create" or name == "create" or options.get("create"):
            note(call, path_of(self, *arguments))
        if name == "copy_mode":
            note(call, path_of(self, *arguments))  # owner as well as permissions
        return inner(self, *arguments, **options)
    setattr(owner, name, wrapped)

def of_file(file, *_):
    return os.readlink(f"/proc/self/fd/{{file._descriptor}}").removesuffix(" (deleted)")

def first(_, path, *more):
    return path

def second(_, source, destination):
    return destination

wrap(disk.OsFile, "write_at", "write", of_file)
wrap(disk.OsFile, "truncate", "truncate", of_file)
wrap(disk.OsFile, "sync", "sync", of_file)
wrap(disk.OsDisk, "open", "create", first)
wrap(disk.OsDisk, "create", "create", first)
wrap(disk.OsDisk, "remove", "remove", first)
wrap(disk.OsDisk, "rename", "rename", second)
wrap(disk.OsDisk, "link", "link", second)
wrap(disk.OsDisk, "make_directory", "make directory", first)
wrap(disk.OsDisk, "remove_directory", "remove directory", first)
wrap(disk.OsDisk, "copy_mode", "copy mode", second)
wrap(disk.OsDisk, "sync_directory", "sync", first)
'''
# What the calls of the file layer are for the kernel. Any other call on a store's file is one that
# the layer does not make.
_NAMES = {
    "pwrite64": "write",
    "pwritev": "write",
    "pwritev2": "write",  # what pwritev comes to where the kernel has both
    "ftruncate": "truncate",
    "fsync": "sync",
    "fdatasync": "sync",
    "rename": "rename",
    "link": "link",
    "unlink": "remove",
    "mkdir": "make directory",
    "rmdir": "remove directory",
    "chmod": "copy mode",
    "chown": "copy mode",
}
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_UNFINISHED = " <unfinished ...>"

Calls = dict[str, list[str]]
"""For each thread, what it changed and where."""


def recorded(folder: Path, directory: str) -> Calls:
    """What the file layer was asked, on files of stores."""
    calls: Calls = {}
    for path in folder.iterdir():
        lines = [line for line in path.read_text().splitlines()
                 if _is_store(line.split(" ")[-1], directory)]  # fmt: skip
        if lines:
            calls[path.name] = lines
    return calls


def seen(lines: Iterable[str], directory: str) -> Calls:
    """What the kernel was asked, on files of stores, from what ``strace`` says."""
    calls: Calls = defaultdict(list)
    for thread, name, text in whole(lines):
        call, path = _meaning(name, text)
        if (call, path) == ("make directory", directory):
            continue  # a host makes the engine's directory, before there are workers
        if path is not None and _is_store(path, directory):
            calls[thread].append(f"{call} {path}")
    return calls


def of_store(name: str, text: str, directory: str) -> bool:
    """Whether a call, as ``strace`` shows it, changes a store's file in a directory."""
    _, path = _meaning(name, text)
    return path is not None and _is_store(path, directory)


def whole(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Thread, name and the rest of each call, those that others interrupted put together.

    They come in the order in which they began: that is the order in which they were recorded.
    """
    calls: list[list[str]] = []
    open_calls: dict[str, list[str]] = {}
    for line in lines:
        if resumed := _RESUMED.match(line):
            if resumed[1] in open_calls:
                open_calls.pop(resumed[1])[2] += resumed[3]
        elif found := _LINE.match(line):
            calls.append([found[1], found[2], found[3].removesuffix(_UNFINISHED)])
            if line.endswith(_UNFINISHED):
                open_calls[found[1]] = calls[-1]
    for call in calls:
        yield call[0], call[1], call[2]


def _meaning(name: str, text: str) -> tuple[str, str | None]:
    """A call's name in the terms of the file layer, and the path it changes, if it does."""
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    descriptor = re.match(r"\d+<(.*?)(?: \(deleted\))?>", text)
    if name in ("open", "openat", "creat"):
        changes = "O_CREAT" in text or "O_TRUNC" in text or name == "creat"
        return "create", quoted[0] if changes and quoted else None
    if name == "mmap":
        shared = re.search(r"MAP_SHARED.*?\d+<(.*?)>", text)
        writes = shared is not None and "PROT_WRITE" in text
        return "map for writing", shared[1] if shared is not None and writes else None
    path = descriptor[1] if descriptor else quoted[-1] if quoted else None
    return _NAMES.get(name, name), path


def _is_store(path: str, directory: str) -> bool:
    inside = path == directory or path.startswith(directory + os.sep)
    return inside and not path.startswith(os.path.join(directory, ".holdfast"))


def differences(layer: Calls, kernel: Calls) -> list[str]:
    """Where the two lists part; a thread that was killed may not have got to its last call."""
    found = []
    for thread in sorted(layer.keys() | kernel.keys()):
        ours, theirs = layer.get(thread, []), kernel.get(thread, [])
        last = [line for line in ours[-2:] if line == ours[-1]]  # of a mode, also the owner
        if theirs in (ours, ours[:-1], ours[: len(ours) - len(last)]):
            continue
        place = next(
            (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        found.append(
            f"thread {thread}, call {place}: the file layer has {ours[place : place + 1]}, "
            f"the kernel {theirs[place : place + 1]}"
        )
    return found


@functools.cache
def no_strace() -> str | None:
    """Why nothing can be traced here, if so."""
    if shutil.which("strace") is None:
        return "there is no strace on this machine"
    done = subprocess.run(
        ["strace", "-f", "-o", os.devnull, sys.executable, "-c", ""],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else f"strace is not permitted: {done.stderr.strip()}"


def _compare(scene: Scene) -> None:
    scene.leave()
    hook, notes = Path(scene.home, "hook"), Path(scene.home, "recorded")
    hook.mkdir()
    notes.mkdir()
    (hook / "sitecustomize.py").write_text(_RECORDER.format(folder=str(notes)))
    output = Path(scene.home, "strace.txt")
    command = ("strace", "-f", "-y", "-s", "0", "-e", f"trace={TRACED}", "-o", str(output))
    with Host(scene, "close", environment=on_path(hook), before=command) as host:
        host.hear()
        for process in serving(scene.directory):
            if "worker of" in title_of(process):
                kill(process.pid)
        host.tell()
        host.hear("done")
        host.end()
    directory = os.path.realpath(scene.directory)
    layer = recorded(notes, directory)
    kernel = seen(output.read_text(errors="replace").splitlines(), directory)
    compared = sum(map(len, layer.values()))
    scene.expect(compared, PROMISE, "the file layer wrote nothing down: this drill is broken")
    for text in differences(layer, kernel)[:1]:
        scene.broke(PROMISE, text)
    scene.tally.fault("file calls compared with strace", compared)


SCENARIO = LiveScenario(
    Setting("file calls under strace", sort="kill", clients=0), _compare, missing=no_strace
)
"""Works with a store, its worker killed on the way, and compares the lists."""


def on_path(hook: Path) -> dict[str, str]:
    """The environment in which Python finds the modules of a folder first."""
    paths = [str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
