"""What differs between operating systems."""

import ctypes
import subprocess
import sys

import pytest

GROWN = """
import re
from pathlib import Path
from holdfast.workers.platform import give_memory_back

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

blocks = [b"x" * 100_000 for _ in range(1000)]  # too small to be mapped each for itself
last = blocks[-1]                               # keeps the heap from shrinking by itself
before = resident()
del blocks
freed = resident()
give_memory_back()
print(before - freed, freed - resident(), len(last))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc keeps freed memory until it is told",
)
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    """Of 100 MB that were freed, and that the allocator kept, nearly all goes back."""
    ran = subprocess.run(
        [sys.executable, "-c", GROWN], capture_output=True, text=True, check=True, timeout=60
    )
    by_itself, told, _ = map(int, ran.stdout.split())
    assert by_itself < 20e6
    assert told > 80e6
