"""Memory for much data, such as the vectors of an index."""

import pyarrow as pa


def fresh_memory(size: int) -> memoryview:
    """``size`` bytes to write to, which cost nothing before that. Raises ``MemoryError``.

    They are small pages, which the kernel has at hand. Large ones, which numpy asks for, may have
    to be cleared first or come back from the host of a virtual machine: that takes as long as the
    small ones at best, and ten times as long at worst.
    """
    return memoryview(pa.allocate_buffer(size, memory_pool=pa.system_memory_pool())).cast("B")
