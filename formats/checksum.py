"""The checksums of holdfast's own files.

CRC-32/ISO-HDLC, as in zlib and PNG, is the one of records and blocks: ISA-L computes it at memory
speed and at a fifth of zlib's cost per call on short records. A file that ends with its own CRC has
the same CRC as a whole whatever it says, so a file is told from another by ``file_checksum``.
"""

from blake3 import blake3
from isal.isal_zlib import crc32, crc32_combine

__all__ = ["crc32", "crc32_combine", "file_checksum"]


def file_checksum(data: bytes | bytearray | memoryview) -> int:
    """Which file this is, u32: the first four bytes of its BLAKE3 digest, little-endian."""
    return int.from_bytes(blake3(data).digest(length=4), "little")
