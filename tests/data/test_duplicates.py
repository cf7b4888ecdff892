import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.duplicates
from data.duplicates import Duplicates

keys = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=60)


@given(keys, st.integers(1, 20), st.integers(0, 40))
def test_rows_whose_key_came_before_are_found(
    values: list[int], rows: int, memory_rows: int
) -> None:
    """In memory or on disk, whatever the batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.duplicates, "MEMORY_ROWS", memory_rows)
        found = Duplicates()
        hashes = np.array(values, np.uint64)
        for start in range(0, len(values), rows):
            part = hashes[start : start + rows]
            found.add(part, np.arange(start, start + len(part)))
        again = found.rows().tolist()

    assert again == [k for k, value in enumerate(values) if value in values[:k]]


@given(keys, keys)
def test_duplicates_of_two_halves_merge(first: list[int], second: list[int]) -> None:
    values = [*first, *second]
    halves = []
    for part, start in ((first, 0), (second, len(first))):
        halves.append(Duplicates())
        halves[-1].add(np.array(part, np.uint64), np.arange(start, start + len(part)))
    halves[0].merge(halves[1])

    again = [k for k, value in enumerate(values) if value in values[:k]]
    assert halves[0].rows().tolist() == again
