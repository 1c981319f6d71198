"""One module a kind of store; see ``base`` for what each of them tells."""

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import Subject


def subject_of(kind: StoreKind) -> Subject:
    """How drills see a kind of store. What the kind needs is not loaded before."""
    if kind == "fold":
        from holdfast.bench.drill.subjects.fold import FoldSubject

        return FoldSubject()
    if kind == "vectors":
        from holdfast.bench.drill.subjects.vectors import VectorsSubject

        return VectorsSubject()
    if kind == "warm":
        from holdfast.bench.drill.subjects.warm import WarmSubject

        return WarmSubject()
    if kind == "index":
        from holdfast.bench.drill.subjects.index import IndexSubject

        return IndexSubject()
    if kind == "registry":
        from holdfast.bench.drill.subjects.registry import RegistrySubject

        return RegistrySubject()
    raise ValueError(f"{kind!r} is no kind of store")
