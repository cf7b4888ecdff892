import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.read_ahead import read_ahead


@given(st.lists(st.integers()), st.integers(1, 4))
def test_items_come_in_their_order(items: list[int], depth: int) -> None:
    assert list(read_ahead(items, depth=depth)) == items


def test_the_next_item_is_made_while_this_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in read_ahead(items()):
        if number == 0:
            assert made[1].wait(10)


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    ahead = read_ahead(items())

    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_leaving_early_stops_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    ahead = read_ahead(endless())
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]

    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}
