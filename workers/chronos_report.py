"""What a survey of the original's warm-tier directory found; small enough to travel in a reply."""

from holdfast.workers.message import Message


class ChronosFlaw(Message, frozen=True):
    """A damage of one chunk file, at this offset in bytes."""

    offset: int
    reason: str


class ChronosFile(Message, frozen=True):
    """One chunk file. Points are those of the directory's entity, and nothing else is imported."""

    path: str
    """Relative to the directory, with forward slashes."""
    entity: int
    space: int
    chunk: int
    size_bytes: int
    frames: int
    """Decoded ones, whichever entity they are about."""
    undecodable: int
    """Whole frames that hold no point."""
    foreign: int
    """Decoded frames about another entity than the directory is for."""
    trailing: int
    """Decoded frames with bytes behind the point."""
    tail_bytes: int
    """Bytes behind the last whole frame."""
    first: int | None
    """The least timestamp in microseconds; None without points."""
    last: int | None
    """The greatest timestamp."""
    dimensions: dict[int, int]
    """How many points have a vector of so many floats."""
    non_finite: int
    """Points whose vector has a NaN or an infinity."""
    flaws: list[ChronosFlaw]
    """The first ones, by offset; the numbers above count all."""

    @property
    def points(self) -> int:
        """How many points can be imported, of all dimensions together."""
        return self.frames - self.foreign


class ChronosReport(Message, frozen=True):
    """A directory's chunk files by space, entity, chunk number and path, and what else was met."""

    files: list[ChronosFile]
    notes: list[str]
    """Where manifest.json does not say what the files hold: the first ones."""
    notes_left_out: int
    ignored: list[str]
    """Other names in the directory, and in those of entities: the first ones."""
    ignored_left_out: int

    @property
    def dimensions(self) -> dict[int, int]:
        """How many points have a vector of so many floats, by that number."""
        found: dict[int, int] = {}
        for file in self.files:
            for dimension, points in file.dimensions.items():
                found[dimension] = found.get(dimension, 0) + points
        return dict(sorted(found.items()))

    def points_of_other_dimensions(self, dimension: int) -> int:
        """How many points a store of this dimension has no place for."""
        return sum(count for other, count in self.dimensions.items() if other != dimension)
