"""Which keys load tests draw, and the values that follow from key and number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.load.keys import Keys, owned
from holdfast.bench.load.profile import FoldLoad
from holdfast.bench.load.truth import WrongRead
from holdfast.bench.load.work import filled, number_in, vectors_of

_DRAWN = 200_000


def frequencies(load: FoldLoad, seed: int = 1) -> np.ndarray:
    """How often each key comes among many."""
    keys = Keys(load, np.random.default_rng(seed))
    return np.bincount([keys.next() for _ in range(_DRAWN)], minlength=load.keys)


@pytest.mark.parametrize("exponent", [0.5, 0.99, 1.5])
def test_zipfian_keys_come_as_often_as_theory_says(exponent: float) -> None:
    """The key of rank r comes in proportion to 1 / r ** exponent, within five standard errors."""
    load = FoldLoad({"get": 1}, keys=1000, distribution="zipfian", exponent=exponent)
    counts = np.sort(frequencies(load))[::-1]
    weights = np.arange(1, 1001) ** -exponent
    expected = _DRAWN * weights / weights.sum()
    # Only the head: sorting favours the larger of two that are about equally frequent.
    head = np.cumsum(expected)[:10]
    assert np.all(np.abs(np.cumsum(counts)[:10] - head) < 5 * np.sqrt(head))


def test_zipfian_ranks_are_scattered() -> None:
    """The frequent keys are not the first ones, and are the same for every client."""
    load = FoldLoad({"get": 1}, keys=1000, distribution="zipfian")
    first, second = (np.argsort(frequencies(load, seed))[::-1][:3].tolist() for seed in (1, 2))
    assert first == second
    assert first != [0, 1, 2]


def test_uniform_keys_come_equally_often() -> None:
    """Each of a few keys comes as often as any other, within five standard errors."""
    counts = frequencies(FoldLoad({"get": 1}, keys=50))
    assert np.all(np.abs(counts - _DRAWN / 50) < 5 * np.sqrt(_DRAWN / 50))


def test_the_same_seed_draws_the_same_keys() -> None:
    """What is drawn follows from the generator alone."""
    load = FoldLoad({"get": 1}, keys=1000, distribution="zipfian")
    drawn = [Keys(load, np.random.default_rng(seed)).several(20) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == len(drawn[0])


@given(st.integers(1, 40), st.data())
def test_an_owned_key_is_the_clients_own(clients: int, data: st.DataObject) -> None:
    """Whatever key is drawn, the one that is written in its place is there, and its client's."""
    keys = data.draw(st.integers(clients, 200))
    key = data.draw(st.integers(0, keys - 1))
    client = data.draw(st.integers(0, clients - 1))
    mine = owned(key, client, clients, keys)
    assert 0 <= mine < keys
    assert mine % clients == client
    assert abs(mine - key) < clients


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(16, 500), st.data())
def test_a_value_tells_its_write_and_nothing_else_does(
    key: int, number: int, size: int, data: st.DataObject
) -> None:
    """A value's number is read from it; with any byte changed, or of another key, it is wrong."""
    value = filled(key, number, size)
    assert len(value) == size
    assert number_in(key, value) == number
    place = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != value[place]))
    with pytest.raises(WrongRead):
        number_in(key, value[:place] + bytes([other]) + value[place + 1 :])
    with pytest.raises(WrongRead):
        number_in(key + 1, value)


def test_vectors_follow_from_key_and_number() -> None:
    """Vectors of different writes differ, the same write's are the same, and all are in [-1, 1)."""
    keys = [key for key in range(50) for _ in range(50)]
    numbers = [number for _ in range(50) for number in range(50)]
    vectors = vectors_of(keys, numbers, 8)
    assert vectors.dtype == np.float32
    assert len(np.unique(vectors, axis=0)) == 2500
    assert vectors.min() >= -1
    assert vectors.max() < 1
    assert np.array_equal(vectors[57:58], vectors_of([keys[57]], [numbers[57]], 8))
