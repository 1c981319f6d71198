"""The words of the warm store, apart, so that messages need not load what its bytes need."""

from typing import Literal, get_args

Compression = Literal["none", "zstd", "lz4"]
"""Of a chunk's buffers."""
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
