"""The part of faiss that is used here, typed; it is loaded when first needed, if it is installed.

Lists of ``IndexIVFPQFastScan`` hold their codes in packed blocks. Only ``add_with_ids`` packs them:
``add_core`` and ``add_sa_codes``, inherited from a class whose codes are not packed, write beyond
the lists' memory (seen in faiss 1.15.1), and ``add_entries`` takes whole blocks as they lie in
another such list.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class Pointer(Protocol):
    """Something of faiss that is only handed on: an address, a vector, parameters."""


class TrainingParameters(Protocol):
    """Of k-means."""

    niter: int
    min_points_per_centroid: int


class ProductCode(Protocol):
    """Codes of subspaces; ``centroids`` is the codebook."""

    centroids: Pointer
    cp: TrainingParameters


class BlockLists(Protocol):
    """Inverted lists of ids and blocks of codes."""

    block_size: int
    n_per_block: int

    def list_size(self, list_no: int) -> int: ...
    def get_ids(self, list_no: int) -> Pointer: ...
    def get_codes(self, list_no: int) -> Pointer: ...
    def add_entries(self, list_no: int, n_entry: int, ids: Pointer, code: Pointer) -> int: ...


class Quantizer(Protocol):
    """The centroids of the lists."""

    def add(self, x: Floats) -> None: ...
    def search(self, x: Floats, k: int) -> tuple[Floats, Indices]: ...


class FastScanIndex(Protocol):
    """``IndexIVFPQFastScan``."""

    by_residual: bool
    is_trained: bool
    ntotal: int
    pq: ProductCode
    invlists: Pointer

    def train(self, x: Floats) -> None: ...
    def add_with_ids(self, x: Floats, ids: Indices) -> None: ...
    def precompute_table(self) -> None: ...
    def search(self, x: Floats, k: int, *, params: Pointer) -> tuple[Floats, Indices]: ...


class GraphParameters(Protocol):
    """Of ``IndexHNSWFlat``."""

    efConstruction: int


class GraphIndex(Protocol):
    """``IndexHNSWFlat``."""

    hnsw: GraphParameters
    ntotal: int

    def add(self, x: Floats) -> None: ...
    def search(self, x: Floats, k: int, *, params: Pointer) -> tuple[Floats, Indices]: ...


class Kmeans(Protocol):
    """Centroids found by k-means."""

    centroids: Floats

    def train(self, x: Floats, *, init_centroids: Floats) -> float: ...


class Faiss(Protocol):
    """The module."""

    __version__: str
    METRIC_L2: int
    METRIC_INNER_PRODUCT: int
    METRIC_L1: int

    def omp_set_num_threads(self, num_threads: int) -> None: ...
    def IndexFlatL2(self, d: int) -> Quantizer: ...
    def IndexIVFPQFastScan(
        self, quantizer: Quantizer, d: int, nlist: int, M: int, nbits: int
    ) -> FastScanIndex: ...
    def IndexHNSWFlat(self, d: int, M: int, metric: int) -> GraphIndex: ...
    def SearchParametersHNSW(self, *, efSearch: int, sel: Pointer) -> Pointer: ...
    def Kmeans(
        self,
        d: int,
        k: int,
        *,
        niter: int,
        seed: int,
        min_points_per_centroid: int,
        max_points_per_centroid: int,
    ) -> Kmeans: ...
    def SearchParametersIVF(self, *, nprobe: int, sel: Pointer | None = None) -> Pointer: ...
    def IDSelectorBitmap(self, n: int, bitmap: Pointer) -> Pointer: ...
    def downcast_InvertedLists(self, lists: Pointer) -> BlockLists: ...
    def knn(self, xq: Floats, xb: Floats, k: int) -> tuple[Floats, Indices]: ...
    def swig_ptr(self, array: NDArray[np.generic]) -> Pointer: ...
    def rev_swig_ptr(self, pointer: Pointer, n: int) -> NDArray[np.generic]: ...
    def copy_array_to_vector(self, array: Floats, vector: Pointer) -> None: ...
    def vector_to_array(self, vector: Pointer) -> Floats: ...


def available() -> bool:
    """Whether faiss is installed, as it is with the extra ``holdfast[ann]``."""
    return find_spec("faiss") is not None


@cache
def _module() -> Faiss:
    return cast(Faiss, import_module("faiss"))


def library() -> Faiss:
    """faiss, told to use one thread for what the calling thread is about to do.

    One, because the store serves while an index is built, and because two wait for each other
    wherever the machine has no processor to spare.
    """
    faiss = _module()
    faiss.omp_set_num_threads(1)
    return faiss
