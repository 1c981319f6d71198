"""Folding a fold's two layers into one order of keys, in slices, for a new base or a snapshot.

Apart from ``fold_table``, and loaded by the first merge: numpy takes longer to load than a small
fold to open.
"""

from bisect import bisect_left
from collections.abc import Generator, Iterable
from itertools import islice

import numpy as np

from holdfast.formats.fold_spans import Spans, check_puts
from holdfast.workers.fold_table import Base

_ITEMS_PER_STEP = 1024
_KEYS_PER_SORT = 1 << 13
_SAMPLES_PER_RUN = 64


def merged_spans(
    base: Base, overlay: dict[bytes, int], ordinals: dict[bytes, int]
) -> Generator[None, None, memoryview]:
    """All live spans in key order: the base under ``overlay``; raises ``DamagedRecord``.

    ``ordinals`` says where the base has some of the overlay's keys. Neither may change meanwhile.
    """
    spans: Spans = np.array(base.spans, np.uint64)
    yield from _replace_known(base, spans, overlay, ordinals)
    keys = yield from sorted_keys(key for key in overlay if key not in ordinals)
    new = np.fromiter(map(overlay.__getitem__, keys), np.uint64, len(keys))
    if not len(base):
        spans = new
    elif keys:
        places = np.zeros(len(keys), np.int64)
        found = np.zeros(len(keys), np.bool_)
        for number, key in enumerate(keys):
            places[number], found[number] = base.locate(key)
            if not number % _ITEMS_PER_STEP:
                yield
        spans[places[found]] = new[found]
        spans = np.insert(spans, places[~found], new[~found])
    live: Spans = spans if spans.all() else spans[spans != 0]
    return live.data


def _replace_known(
    base: Base, spans: Spans, overlay: dict[bytes, int], ordinals: dict[bytes, int]
) -> Generator[None, None, None]:
    """Put the overlay's spans where the base has the same keys."""
    known = iter(ordinals.items())
    while part := dict(islice(known, _KEYS_PER_SORT)):
        places = np.fromiter(part.values(), np.int64, len(part))
        check_puts(base.view, np.sort(spans[places]))  # a flipped bit may have made it this key
        # As they were written, and so not at random places of the overlay.
        spans[places] = np.fromiter(map(overlay.__getitem__, part), np.uint64, len(part))
        yield


def sorted_keys(unsorted: Iterable[bytes]) -> Generator[None, None, list[bytes]]:
    """These keys in order, sorted in slices with a pause after each."""
    keys = list(unsorted)
    runs = []
    for start in range(0, len(keys), _KEYS_PER_SORT):
        runs.append(sorted(keys[start : start + _KEYS_PER_SORT]))
        yield
    if len(runs) <= 1:
        return runs[0] if runs else []
    # Samples tell where to cut all runs alike; what lies between two cuts is merged by itself.
    samples = sorted(key for run in runs for key in run[:: _KEYS_PER_SORT // _SAMPLES_PER_RUN])
    cuts = samples[_SAMPLES_PER_RUN::_SAMPLES_PER_RUN]
    begins = [0] * len(runs)
    merged: list[bytes] = []
    for cut in [*cuts, None]:
        bucket: list[bytes] = []
        for number, run in enumerate(runs):
            stop = len(run) if cut is None else bisect_left(run, cut, begins[number])
            bucket += run[begins[number] : stop]
            begins[number] = stop
        bucket.sort()
        merged += bucket
        yield
    return merged
