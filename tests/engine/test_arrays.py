"""Ids and vectors in every form a caller may have; what does not fit is refused by its place."""

import array
import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.handles.arrays import as_ids, as_queries, as_vectors, first_non_finite

U64_MAX = (1 << 64) - 1


class Tensor:
    """What a deep-learning library gives: DLPack and nothing else."""

    def __init__(self, data: NDArray[np.number]) -> None:
        self._data = data

    def __dlpack__(self, **options: object) -> object:
        return self._data.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()


class OnDevice(Tensor):
    """A tensor whose values are not in memory."""

    def __dlpack__(self, **options: object) -> object:
        raise BufferError("on another device")


class ArrayCapsule:
    """Somebody's Arrow array, reachable through its capsule only."""

    def __init__(self, data: pa.Array) -> None:
        self._data = data

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._data.__arrow_c_array__(requested_schema)


class StreamCapsule:
    """Somebody's Arrow chunked array or table, reachable through its capsule only."""

    def __init__(self, data: pa.ChunkedArray) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._data.__arrow_c_stream__(requested_schema)


class Frame(StreamCapsule):
    """A data frame: a struct of columns to Arrow, a matrix to numpy."""

    def __array__(self, dtype: object = None, copy: object = None) -> NDArray[np.float64]:
        return np.array([[1.0, 2.0], [3.0, 4.0]])


def same_memory(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    return a.ctypes.data == b.ctypes.data


# --- ids --------------------------------------------------------------------------------------

NUMBERS = [3, 0, 7]
ID_FORMS: list[object] = [
    NUMBERS,
    tuple(NUMBERS),
    iter(NUMBERS),
    (number for number in NUMBERS),
    {3: "x", 0: "y", 7: "z"}.keys(),
    [np.int8(3), 0, np.uint64(7)],
    array.array("I", NUMBERS),
    memoryview(array.array("q", NUMBERS)),
    *(np.array(NUMBERS, dtype) for dtype in "bhiqBHIQ"),
    np.array(NUMBERS, ">u8"),
    np.array(NUMBERS, object),
    np.array([3, 9, 0, 9, 7])[::2],
    pa.array(NUMBERS, pa.int8()),
    pa.array([9, *NUMBERS], pa.uint64()).slice(1),
    pa.chunked_array([[3], [0, 7]], pa.uint32()),
    ArrayCapsule(pa.array(NUMBERS)),
    StreamCapsule(pa.chunked_array([[3], [0, 7]])),
    Tensor(np.array(NUMBERS)),
]


@pytest.mark.parametrize("form", ID_FORMS, ids=lambda form: type(form).__name__)
def test_ids_in_every_form(form: object) -> None:
    """Integers of any kind become one contiguous array of uint64."""
    ids = as_ids(form)
    assert ids.dtype == np.uint64
    assert ids.dtype.isnative
    assert ids.flags.c_contiguous
    assert ids.tolist() == NUMBERS


@pytest.mark.parametrize(
    "empty",
    [[], (), range(0), np.array([]), pa.array([]), pa.chunked_array([], pa.int64())],
)
def test_no_ids(empty: object) -> None:
    """No ids are fine, whatever type an empty thing has."""
    assert as_ids(empty).shape == (0,)


def test_ids_are_not_copied_needlessly() -> None:
    """An array that is right already is passed on, also out of Arrow and DLPack."""
    ids = np.arange(5, dtype=np.uint64)
    assert as_ids(ids) is ids
    assert same_memory(as_ids(pa.array(ids)), ids)
    assert same_memory(as_ids(pa.array(ids).slice(2)), ids[2:])
    assert same_memory(as_ids(Tensor(ids)), ids)


@pytest.mark.parametrize(
    "span",
    [
        range(5),
        range(10, 0, -3),
        range(U64_MAX - 3, U64_MAX + 1),
        range(U64_MAX, -1, -(1 << 62)),
        range(0, U64_MAX, 1 << 61),
        range(4, -1, -1),
    ],
)
def test_ranges(span: range) -> None:
    """A range is as good as the list of its numbers, up to both ends of u64."""
    assert as_ids(span).tolist() == list(span)


@pytest.mark.parametrize(
    ("given", "index", "value"),
    [
        ([1, -1], 1, -1),
        ([0, U64_MAX, U64_MAX + 1], 2, U64_MAX + 1),
        (np.array([1, 2, -3], np.int16), 2, -3),
        (pa.array([1, -2]), 1, -2),
        (pa.chunked_array([[1], [2, -5]]), None, -5),
        (range(3, -3, -1), 4, -1),
        (range(-2, 4), 0, -2),
        (range(U64_MAX - 1, U64_MAX + 9, 2), 1, U64_MAX + 1),
        ([np.int64(-7)], 0, -7),
    ],
)
def test_ids_out_of_range(given: object, index: int | None, value: int) -> None:
    """A number that is no u64 is refused by index and value."""
    with pytest.raises(LimitExceeded, match=rf"ids\[\d+\] is {value},") as error:
        as_ids(given)
    assert index is None or f"ids[{index}]" in str(error.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([1, 2.0], r"ids\[1\] is 2.0 \(float\)"),
        ([1, None], r"ids\[1\] is None"),
        ([True], r"ids\[0\] is True \(bool\)"),
        ([np.bool_(True)], r"ids\[0\] is True \(bool\)"),
        (["1"], r"ids\[0\] is '1' \(str\)"),
        ([[1]], r"ids\[0\] is \[1\] \(list\)"),
        (np.array([1.5]), r"ids\[0\] is 1.5 \(float\)"),
        (np.array([True]), r"ids\[0\] is True \(bool\)"),
        (np.array(["1"]), r"ids\[0\] is '1'"),
        (np.array([[1]]), r"shape \(1, 1\)"),
        (np.array(1), r"shape \(\)"),
        (np.ma.masked_array([1, 2], [False, True]), "masked"),
        (pa.array([1, None]), r"ids\[1\] is None"),
        (pa.array([1.5]), r"ids\[0\] is 1.5"),
        (pa.array([True]), r"ids\[0\] is True"),
        (pa.table({"a": [1]}), "ids"),
        (7, r"write \[7\]"),
        (np.uint64(7), r"write \[7\]"),
        (1.5, "float"),
        (None, "NoneType"),
        ("12", "str"),
        (b"12", "bytes"),
        ({1: 2}, "dict"),
        (OnDevice(np.arange(2)), "on another device"),
    ],
)
def test_what_is_no_list_of_ids(given: object, complaint: str) -> None:
    """Anything but integers is refused by index, value and type."""
    with pytest.raises(InvalidArgument, match=complaint):
        as_ids(given)


@given(st.lists(st.integers(0, U64_MAX)))
def test_ids_keep_every_bit(numbers: list[int]) -> None:
    """Any u64 comes through exactly."""
    assert as_ids(numbers).tolist() == numbers
    assert as_ids(np.array(numbers, np.uint64)).tolist() == numbers


# --- vectors ----------------------------------------------------------------------------------

MATRIX = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
LISTS = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 3)
VECTOR_FORMS: list[object] = [
    MATRIX,
    np.asfortranarray(MATRIX),
    MATRIX.astype(">f4"),
    *(MATRIX.astype(dtype) for dtype in ["f2", "f8", "i1", "u8", "longdouble"]),
    MATRIX.astype(object),
    np.ndarray((2, 3), np.float32, bytearray(b"\0" + MATRIX.tobytes()), 1),
    MATRIX.tolist(),
    list(MATRIX),
    [array.array("f", row) for row in MATRIX],
    [tuple(row) for row in MATRIX.tolist()],
    (row for row in MATRIX.tolist()),
    pa.FixedSizeListArray.from_arrays(pa.array(MATRIX.ravel()), 3),
    pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32) - 2), 3).slice(1, 2),
    pa.array(MATRIX.tolist()),
    pa.array(MATRIX.tolist(), pa.large_list(pa.float32())),
    pa.array([[0, 0], *MATRIX.tolist()], pa.list_(pa.int32())).slice(1),
    pa.chunked_array([[row] for row in MATRIX.tolist()], pa.list_(pa.float32(), 3)),
    pa.FixedShapeTensorArray.from_numpy_ndarray(MATRIX),
    ArrayCapsule(pa.FixedSizeListArray.from_arrays(pa.array(MATRIX.ravel()), 3)),
    StreamCapsule(pa.chunked_array([MATRIX.tolist()], pa.list_(pa.float32(), 3))),
    Tensor(MATRIX),
    Tensor(MATRIX.astype(np.float64)),
]


@pytest.mark.parametrize("form", VECTOR_FORMS, ids=lambda form: type(form).__name__)
def test_vectors_in_every_form(form: object) -> None:
    """Numbers in rows become one C-contiguous, aligned array of float32."""
    vectors = as_vectors(form, 3)
    assert vectors.dtype == np.float32
    assert vectors.dtype.isnative
    assert vectors.flags.c_contiguous
    assert vectors.flags.aligned
    assert vectors.tolist() == MATRIX.tolist()


def test_vectors_are_not_copied_needlessly() -> None:
    """Rows of float32 are passed on as they lie, also out of Arrow and DLPack."""
    assert as_vectors(MATRIX, 3) is MATRIX
    assert same_memory(as_vectors(Tensor(MATRIX), 3), MATRIX)
    flat = LISTS.flatten().to_numpy()
    assert same_memory(as_vectors(LISTS, 3), flat)
    assert same_memory(as_vectors(LISTS.slice(2), 3), flat[6:])
    assert same_memory(as_vectors(pa.chunked_array([LISTS]), 3), flat)
    assert same_memory(as_vectors(ArrayCapsule(LISTS), 3), flat)
    assert same_memory(as_vectors(StreamCapsule(pa.chunked_array([LISTS])), 3), flat)
    assert same_memory(as_queries(MATRIX[0], 3)[0], MATRIX)


def test_a_frame_is_its_matrix() -> None:
    """What is a struct to Arrow is taken the way numpy sees it."""
    assert as_vectors(Frame(pa.table({"x": [1], "y": [2]})), 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "empty",
    [
        [],
        (),
        np.empty((0, 3)),
        np.array([]),
        pa.array([], pa.list_(pa.float32(), 3)),
        LISTS.slice(4),
    ],
)
def test_no_vectors(empty: object) -> None:
    """No vectors are fine and have the right width, as queries too."""
    assert as_vectors(empty, 3).shape == (0, 3)
    assert as_queries(empty, 3)[0].shape == (0, 3)
    assert as_queries(empty, 3)[1] is False


def test_any_width_without_a_dimension() -> None:
    """Where no dimension is set yet, rows only have to be equally long."""
    assert as_vectors([[1, 2], [3, 4]], None).shape == (2, 2)
    assert as_vectors(pa.array([[1.0], [2.0]]), None).shape == (2, 1)
    assert as_vectors([], None).shape == (0, 0)
    with pytest.raises(InvalidArgument, match="row 1: 1 numbers, expected 2"):
        as_vectors([[1, 2], [3]], None)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([[1, 2, 3], [4, 5]], "row 1: 2 numbers, expected 3"),
        ([[1, 2], [3, 4]], "row 0: 2 numbers, expected 3"),
        ([[1, 2], [3, 4, 5]], "row 0: 2 numbers, expected 3"),
        ([[1, 2, 3], 4], "row 1: no list of numbers, expected 3"),
        (np.zeros((2, 4)), "row 0: 4 numbers, expected 3"),
        (pa.array([[1, 2, 3], [1]]), "row 1: 1 numbers, expected 3"),
        (pa.array([[1, 2, 3], None]), "row 1"),
        (pa.array([[1, 2, 3], [1, None, 3]]), "row 1: a number is null"),
        (pa.chunked_array([[[1.0, 2, 3]], [None]], pa.list_(pa.float32(), 3)), "row 1: null"),
        (
            pa.chunked_array(
                [[[1.0, 2, 3]], [[1.0, 2, 3], [None, 2, 3]]], pa.list_(pa.float32(), 3)
            ),
            "row 2: a number is null",
        ),
        (pa.array([["a", "b", "c"]]), "list<item: string>"),
        (pa.table({"a": [1]}), "struct"),
        ([[1, 2, "3"]], "<U"),
        ([["1", "2", "3"]], "<U1"),
        ([[1, 2, None]], "row 0, number 2: None is no number"),
        ([None], "row 0: None is no number"),
        ([[True, False, True]], "bool"),
        ([[1, 2, 10**400]], "too large"),
        (np.zeros((1, 3), np.complex64), "complex64"),
        (np.zeros((1, 3), bool), "bool"),
        (np.zeros((1, 1, 3)), r"shape \(1, 1, 3\)"),
        (np.float32(1), "shape|float32"),
        (np.ma.masked_array([[1.0, 2, 3]], [[False, True, False]]), "masked"),
        ([1.0, 2.0, 3.0], r"for one of 3 numbers write \[vector\]"),
        (MATRIX[0], r"write \[vector\]"),
        (None, "NoneType"),
        ("abc", "str"),
        (b"abc", "bytes"),
        (5, "int"),
        ({"a": [1, 2, 3]}, "dict"),
        (OnDevice(MATRIX), "on another device"),
    ],
)
def test_what_is_no_list_of_vectors(given: object, complaint: str) -> None:
    """What cannot be rows of numbers is refused by row, what it has and what was expected."""
    with pytest.raises(InvalidArgument, match=complaint) as error:
        as_vectors(given, 3)
    assert "vectors" in str(error.value)
    with pytest.raises(InvalidArgument, match="rows of x"):
        as_vectors(given, 3, "rows of x")


def test_large_integers_are_numbers() -> None:
    """Python's integers beyond 64 bits become the nearest float."""
    assert as_vectors([[1, 2, 10**30]], 3).tolist() == [[1, 2, float(np.float32(1e30))]]


def test_beyond_float32_is_infinite() -> None:
    """A float64 out of range becomes infinite, without a warning, for the caller to notice."""
    vectors = as_vectors([[0, 0, 0], [1e39, 0, -1e300]], 3)
    assert vectors[1].tolist() == [float("inf"), 0, float("-inf")]
    assert first_non_finite(vectors) == 1


SINGLE: list[Callable[[], object]] = [
    lambda: [4.0, 5.0, 6.0],
    lambda: (4, 5, 6),
    lambda: MATRIX[1],
    lambda: pa.array([4.0, 5.0, 6.0]),
    lambda: Tensor(MATRIX[1]),
    lambda: array.array("d", [4, 5, 6]),
]


@pytest.mark.parametrize("form", SINGLE)
def test_a_single_query(form: Callable[[], object]) -> None:
    """One vector is a batch of one that is known to be single."""
    queries, single = as_queries(form(), 3)
    assert queries.tolist() == [[4, 5, 6]]
    assert single
    with pytest.raises(InvalidArgument, match="the query vector has 3 numbers, expected 4"):
        as_queries(form(), 4)
    assert as_queries([form()] if not isinstance(form(), Tensor) else MATRIX[1:], 3)[1] is False


def test_a_batch_of_queries() -> None:
    """Rows are a batch, and one that does not fit is named."""
    queries, single = as_queries(MATRIX, 3)
    assert queries is MATRIX
    assert not single
    with pytest.raises(InvalidArgument, match="query, row 1: 1 numbers, expected 3"):
        as_queries([[1, 2, 3], [4]], 3)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 5)),
        elements=st.floats(width=32) | st.sampled_from([2.0**127, -(2.0**127), 2.0**-149]),
    )
)
def test_first_non_finite(vectors: NDArray[np.float32]) -> None:
    """The first row with a NaN or an infinity is found; large finite values are none."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    assert first_non_finite(vectors) == (bad[0] if bad else None)


def test_first_non_finite_of_many() -> None:
    """It is found wherever it lies among many rows, also behind rows whose squares overflow."""
    chance = random.Random(5)
    vectors = np.full((5000, 33), 3e38, np.float32)
    assert first_non_finite(vectors) is None
    for _ in range(20):
        row = chance.randrange(5000)
        vectors[row, chance.randrange(33)] = chance.choice([np.nan, np.inf, -np.inf])
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        assert first_non_finite(vectors) == bad[0]
    assert first_non_finite(np.empty((3, 0), np.float32)) is None
