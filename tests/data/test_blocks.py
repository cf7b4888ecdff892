import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.blocks
from data.blocks import Blocks, RangeFile

CONTENT = bytes(range(256)) * 40


class Asked:
    """Something far away that counts what it is asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.ranges = content, list[tuple[int, int]]()
        self.lock = threading.Lock()

    def __call__(self, start: int, length: int) -> bytes:
        with self.lock:
            self.ranges.append((start, length))
        return self.content[start : start + length]


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.blocks, "BLOCK_BYTES", 64)
        patch.setattr(data.blocks, "LEAST_BYTES", 16)
        patch.setattr(data.blocks, "HELD_BYTES", 64 * 16)
        yield


@given(
    st.lists(st.tuples(st.integers(0, 11_000), st.integers(0, 700)), max_size=20),
    st.integers(1, 40),
)
def test_a_range_is_what_is_there(ranges: list[tuple[int, int]], places: int) -> None:
    with closing(Blocks(Asked(), len(CONTENT), places=places)) as blocks:
        for start, length in ranges:
            found = b"".join(blocks.pieces(start, length))
            assert found == CONTENT[start : start + length]


@pytest.mark.parametrize("places", [1, 2, 8])
def test_who_reads_in_order_in_some_places_asks_for_a_byte_once(places: int) -> None:
    """But for those ahead of the end of one place, which the next has left behind."""
    asked, part = Asked(), len(CONTENT) // places
    with closing(Blocks(asked, len(CONTENT), places=places)) as blocks:
        for offset in range(0, part, 10):
            for place in range(places):
                length = min(10, part - offset)
                list(blocks.pieces(place * part + offset, length))

    assert sum(length for _, length in asked.ranges) <= len(CONTENT) * 1.06


def test_what_is_held_is_bounded_and_the_next_blocks_are_asked_for_before() -> None:
    asked = Asked(bytes(100_000))
    with closing(Blocks(asked, 100_000)) as blocks:
        list(blocks.pieces(0, 10))
        assert len(blocks._held) == 1 + data.blocks.AHEAD
        for _ in blocks.pieces(0, 100_000):
            assert len(blocks._held) * 64 <= data.blocks.HELD_BYTES


def test_what_goes_wrong_is_raised_to_who_reads() -> None:
    def fail(start: int, length: int) -> bytes:
        raise ConnectionError(f"no byte {start}")

    with (
        closing(Blocks(fail, 1000)) as blocks,
        pytest.raises(ConnectionError, match="no byte 0"),
    ):
        list(blocks.pieces(5, 5))


def test_a_file_of_ranges_is_a_file() -> None:
    file, plain = RangeFile(Asked(), len(CONTENT)), io.BytesIO(CONTENT)
    acts: tuple[Callable[[Any], Any], ...] = (
        lambda f: f.read(7),
        lambda f: f.seek(-20, io.SEEK_END),
        lambda f: f.read(7),
        lambda f: f.seek(2, io.SEEK_CUR),
        lambda f: f.tell(),
        lambda f: f.read(),
        lambda f: f.read(3),
        lambda f: f.seek(100),
        lambda f: f.read(-1),
    )
    for act in acts:
        assert act(file) == act(plain)
