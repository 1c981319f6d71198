"""The lists of an approximate index: codes of points by nearest centroid, kept by faiss.

A point has 4 bits for every subspace of 2 coordinates, and SIMD instructions compare 32 codes
at a time (André, Kermarrec, Le Scouarnec, "Cache locality is not enough: high-performance nearest
neighbor search with product quantization fast scan", VLDB 2015).
"""

from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.ann_cache import ABSENT, CODES, LIBRARY_BYTES, AnnCache
from holdfast.formats.errors import InvalidFormat
from holdfast.workers.faiss_library import (
    BlockLists,
    FastScanIndex,
    Floats,
    Indices,
    Pointer,
    Quantizer,
    library,
)

_CODEBOOK_ROUNDS = 10
_FINE_WIDTH_MAX = 32  # up to here every coordinate is a subspace
_SUBSPACES_MAX = 1024
_QUERIES_PER_CALL = 16  # of more at once, each is slower


class Selection:
    """The rows that may be given: all, or those whose bit is set, the lowest of a byte first.

    It remembers what faiss wants to be told, as callers have many queries of the same selection.
    """

    def __init__(self, bits: NDArray[np.uint8] | None) -> None:
        self.bits = bits
        self._parameters: dict[int, Pointer] = {}

    @cached_property
    def count(self) -> int:
        """How many bits are set."""
        return 0 if self.bits is None else int(np.count_nonzero(np.unpackbits(self.bits)))

    def parameters(self, breadth: int) -> Pointer:
        """How to search ``breadth`` lists for them."""
        found = self._parameters.get(breadth)
        if found is None:
            found = self._parameters[breadth] = self._made(breadth)
        return found

    def _made(self, breadth: int) -> Pointer:
        faiss = library()
        if self.bits is None:
            return faiss.SearchParametersIVF(nprobe=breadth)
        chosen = faiss.IDSelectorBitmap(len(self.bits), faiss.swig_ptr(self.bits))
        return faiss.SearchParametersIVF(nprobe=breadth, sel=chosen)

    def of(self, rows: Indices) -> Indices:
        """Those of ``rows`` that may be given."""
        if self.bits is None:
            return rows
        rows = rows[rows < 8 * len(self.bits)]
        bits: NDArray[np.uint8] = self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)
        return rows[(bits & 1).astype(np.bool_)]


EVERYTHING = Selection(None)


class CodedLists:
    """Row numbers and codes of points (n, width), one list for each centroid (lists, width).

    Codes are of the points, or, if ``residual``, of their difference to the centroid: these say
    more of a point, but need a table of distances for every list that is looked at, where those
    need one in all.
    """

    def __init__(self, centroids: Floats, spreads: Floats, *, residual: bool) -> None:
        faiss = library()
        self.centroids = centroids
        self.spreads = spreads
        """Mean squared distance of a list's points from its centroid, (lists,)."""
        self.residual = residual
        self._quantizer: Quantizer = faiss.IndexFlatL2(self.width)
        self._quantizer.add(centroids)
        self._index: FastScanIndex = faiss.IndexIVFPQFastScan(
            self._quantizer, self.width, len(self), self.subspaces, 4
        )
        self._index.by_residual = residual

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def width(self) -> int:
        """Coordinates of a point."""
        return int(self.centroids.shape[1])

    @property
    def subspaces(self) -> int:
        """How many groups of coordinates have 4 bits each."""
        size = 1 if self.width <= _FINE_WIDTH_MAX else max(2, -(-self.width // _SUBSPACES_MAX))
        while self.width % size:
            size += 1
        return self.width // size

    def train(self, points: Floats) -> None:
        """Learn the codes."""
        library()
        self._index.pq.cp.niter = _CODEBOOK_ROUNDS
        self._index.pq.cp.min_points_per_centroid = 1
        self._index.train(points)

    def add(self, points: Floats, numbers: Indices) -> None:
        """Put points into the lists, each in ascending order of row numbers."""
        library()
        self._index.add_with_ids(points, numbers)

    def nearest(self, points: Floats, count: int) -> tuple[Floats, Indices]:
        """The lists nearest to each point, and their squared distances, both (n, count)."""
        library()
        return self._quantizer.search(points, count)

    def candidates(
        self, points: Floats, depth: int, breadth: int, selection: Selection = EVERYTHING
    ) -> tuple[Floats, Indices]:
        """Rows in the nearest ``breadth`` lists by estimated squared distance, both (q, depth).

        Where there are no more, the row is -1 and the distance beyond any other.
        """
        library()
        parameters = selection.parameters(breadth)
        if len(points) <= _QUERIES_PER_CALL:
            return self._index.search(points, depth, params=parameters)
        estimates = np.empty((len(points), depth), np.float32)
        found = np.empty((len(points), depth), np.int64)
        for start in range(0, len(points), _QUERIES_PER_CALL):
            here = slice(start, start + _QUERIES_PER_CALL)
            estimates[here], found[here] = self._index.search(
                points[here], depth, params=parameters
            )
        return estimates, found

    # --- as they are kept ----------------------------------------------------------------------

    @property
    def layout(self) -> tuple[bytes, int, int, int]:
        """Which library packs the codes, into blocks of how many rows and bytes; the subspaces."""
        inverted = self._inverted()
        version = f"faiss {library().__version__}".encode()[:LIBRARY_BYTES]
        return version, inverted.n_per_block, inverted.block_size, self.subspaces

    def _inverted(self) -> BlockLists:
        return library().downcast_InvertedLists(self._index.invlists)

    def homes(self, rows: int) -> NDArray[np.uint32]:
        """The list of each of the first ``rows`` rows, or ``ABSENT``."""
        faiss, inverted = library(), self._inverted()
        homes = np.full(rows, ABSENT, np.uint32)
        for number in range(len(self)):
            count = inverted.list_size(number)
            if count:
                held = faiss.rev_swig_ptr(inverted.get_ids(number), count)
                homes[cast(Indices, held)] = number
        return homes

    def codebook(self) -> Floats:
        """The 16 codes of each subspace, (subspaces, 16, coordinates)."""
        learnt = library().vector_to_array(self._index.pq.centroids)
        return learnt.reshape(self.subspaces, CODES, -1)

    def packed(self) -> NDArray[np.uint8]:
        """The blocks of all lists."""
        faiss, inverted = library(), self._inverted()
        pieces = [np.empty(0, np.uint8)]
        for number in range(len(self)):
            blocks = -(-inverted.list_size(number) // inverted.n_per_block)
            if blocks:
                size = blocks * inverted.block_size
                held = faiss.rev_swig_ptr(inverted.get_codes(number), size)
                pieces.append(cast(NDArray[np.uint8], held))
        return np.concatenate(pieces)

    @classmethod
    def unpacked(cls, cache: AnnCache) -> "CodedLists":
        """The lists kept in ``cache``; ``InvalidFormat`` where this library packs otherwise."""
        lists = cls(
            np.ascontiguousarray(cache.centroids, np.float32),
            cache.spreads.astype(np.float32),
            residual=cache.residual,
        )
        kept = (cache.library, cache.block_rows, cache.block_bytes, len(cache.codebook))
        if kept != lists.layout:
            raise InvalidFormat(f"the index cache's codes are packed as {kept}, not {lists.layout}")
        faiss, index, inverted = library(), lists._index, lists._inverted()
        codebook = np.ascontiguousarray(cache.codebook, np.float32).reshape(-1)
        faiss.copy_array_to_vector(codebook, index.pq.centroids)
        index.is_trained = True
        if cache.residual:
            index.precompute_table()
        rows = np.argsort(cache.homes, kind="stable")  # in each list they ascend
        sizes = zip(cache.list_rows.tolist(), cache.list_bytes.tolist(), strict=True)
        row = byte = 0
        for number, (count, size) in enumerate(sizes):
            if count:
                ids, codes = rows[row : row + count], cache.codes[byte : byte + size]
                inverted.add_entries(number, count, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
            row, byte = row + count, byte + size
        index.ntotal = row
        return lists
