from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.batches
from data.batches import Batch, InMemory, Loader
from data.packing import Packed


def packed_rows(folder: Path, rows: int, features: int = 3) -> Packed:
    """Rows 0..n whose first entry and key are their number, as if packed."""
    (folder / "data").mkdir()
    x = np.arange(rows * features, dtype=np.float32).reshape(rows, features)
    x.tofile(folder / "data" / "rows.bin")
    np.arange(rows, dtype=np.uint64).tofile(folder / "data" / "keys.bin")
    return Packed(folder, rows, features, np.dtype(np.float32))


def in_memory(rows: int, features: int = 3) -> InMemory:
    x = np.arange(rows * features, dtype=np.float32).reshape(rows, features)
    return InMemory(x, np.arange(rows, dtype=np.uint64))


@pytest.fixture
def packed_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """1,003 rows in batches of 20, in blocks of 10 and windows of 160."""
    monkeypatch.setattr(data.batches, "BLOCK_BYTES", 120)
    monkeypatch.setattr(data.batches, "WINDOW_ROWS", 160)
    return Loader(source=packed_rows(tmp_path, 1003), batch_rows=20, seed=5)


@pytest.fixture(params=["in memory", "packed"])
def loader(request: pytest.FixtureRequest, packed_loader: Loader) -> Loader:
    if request.param == "packed":
        return packed_loader
    return Loader(source=in_memory(1003), batch_rows=20, seed=5)


def joined(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def keys_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.row_keys.tolist() for batch in batches]


def test_an_epoch_serves_every_row_once(loader: Loader) -> None:
    batches = list(loader.epoch(0))

    assert [len(batch.x) for batch in batches] == [20] * 50 + [3]
    assert len(batches) == loader.steps_an_epoch
    assert sorted(joined(keys_of(batches))) == list(range(1003))
    for batch in batches:
        np.testing.assert_array_equal(batch.x[:, 0], batch.row_keys * 3)


def test_the_order_is_a_function_of_seed_and_epoch(loader: Loader) -> None:
    other = Loader(source=loader.source, batch_rows=20, seed=6)
    orders = [
        keys_of(list(batches))
        for batches in (loader.epoch(0), loader.epoch(0), loader.epoch(1), other.epoch(0))
    ]

    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


@pytest.mark.parametrize("step", [0, 1, 7, 8, 9, 50, 51, 60, 107])
def test_any_step_can_be_the_first(loader: Loader, step: int) -> None:
    straight = keys_of(list(islice(loader.batches(), 120)))

    assert keys_of(list(islice(loader.batches(step), 120 - step))) == straight[step:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_each_global_batch(loader: Loader, world: int) -> None:
    shares = [
        keys_of(list(islice(loader.batches(30, rank=rank, world=world), 40)))
        for rank in range(world)
    ]
    together = [sorted(joined(batch)) for batch in zip(*shares, strict=True)]

    assert together == [sorted(b) for b in keys_of(list(islice(loader.batches(30), 40)))]


def test_resuming_reads_one_window(
    packed_loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(packed: Packed, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read.append(int((runs[:, 1] - runs[:, 0]).sum()))
        return original(packed, runs)

    original = Packed.read
    monkeypatch.setattr(Packed, "read", counted)
    next(packed_loader.epoch(0, first=47))  # in the last but one of seven windows

    assert read[0] == 160
    assert len(read) <= 2  # the other is read ahead


@given(
    rows=st.integers(1, 300),
    batch_rows=st.integers(1, 70),
    features=st.integers(1, 40),
    block_bytes=st.integers(1, 2000),
    first=st.integers(0, 300),
)
def test_whatever_the_sizes_an_epoch_is_every_row_once(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    batch_rows: int,
    features: int,
    block_bytes: int,
    first: int,
) -> None:
    packed = packed_rows(tmp_path_factory.mktemp("packed"), rows, features)
    loader = Loader(source=packed, batch_rows=batch_rows, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.batches, "BLOCK_BYTES", block_bytes)
        patch.setattr(data.batches, "WINDOW_ROWS", 30)
        batches = keys_of(list(loader.epoch(0)))
        later = keys_of(list(loader.epoch(0, first % loader.steps_an_epoch)))

    assert sorted(joined(batches)) == list(range(rows))
    assert all(len(batch) == batch_rows for batch in batches[:-1])
    assert later == batches[first % loader.steps_an_epoch :]


def test_neighbours_on_disk_are_strangers_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one block are spread over the batches of its window, and windows mix blocks
    from everywhere: of 100 blocks, a window of 16 has some from each third of the file."""
    monkeypatch.setattr(data.batches, "BLOCK_BYTES", 120)
    monkeypatch.setattr(data.batches, "WINDOW_ROWS", 160)
    loader = Loader(source=packed_rows(tmp_path, 1000), batch_rows=20, seed=0)
    for batches in zip(*[iter(keys_of(list(loader.epoch(0)))[:48])] * 8, strict=True):
        window = np.array(joined(batches))
        assert set(window // 334) == {0, 1, 2}
        assert max(np.bincount(np.array(batches[0]) // 10)) < 10


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no rows to train on"):
        Loader(source=in_memory(0), batch_rows=1, seed=0)
