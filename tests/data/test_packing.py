from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import data.packing
import data.snapshot
from data.packing import Buckets, Packed, open_packed, pack
from data.preprocessing import Preprocessor, fit_preprocessor
from data.publication import FormatError
from data.snapshot import Snapshot, ingest
from data.splits import hash_keys

ROWS = 4000


def ingested(root: Path, rows: int = ROWS) -> tuple[Snapshot, Preprocessor]:
    table = pa.table(
        {
            "id": np.arange(rows),
            "a": np.arange(rows) * 1.0,
            "b": np.random.default_rng(0).normal(size=rows),
        }
    )
    snapshot = ingest(table, name="t", root=root)
    return snapshot, fit_preprocessor(snapshot)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Snapshot, Preprocessor]:
    return ingested(tmp_path)


def everything(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    return packed.read(np.array([[0, packed.rows]]))


TEN_BUCKETS = 6400  # bytes of memory


def packed_in(root: Path, source: tuple[Snapshot, Preprocessor], seed: int = 7) -> Packed:
    return pack(*source, root=root, seed=seed, memory_bytes=TEN_BUCKETS)


def test_packed_rows_are_the_train_rows_each_once_with_its_key(
    source: tuple[Snapshot, Preprocessor], tmp_path: Path
) -> None:
    snapshot, preprocessor = source
    x, keys = everything(packed_in(tmp_path / "packed", source))

    train = snapshot.table("train")
    expected = dict(
        zip(
            hash_keys(train["id"]).tolist(),
            preprocessor.transform(train).x.tolist(),
            strict=True,
        )
    )
    assert dict(zip(keys.tolist(), x.tolist(), strict=True)) == expected
    assert len(keys) == snapshot.split_rows["train"]


def test_the_order_depends_on_the_seed_and_on_no_chunk(
    source: tuple[Snapshot, Preprocessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    for number, (seed, slice_bytes) in enumerate([(7, 16 << 20), (7, 999), (8, 999)]):
        monkeypatch.setattr(data.packing, "SLICE_BYTES", slice_bytes)
        packed = packed_in(tmp_path / str(number), source, seed)
        orders.append(everything(packed)[1].tolist())

    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_any_row_may_come_to_any_place(
    source: tuple[Snapshot, Preprocessor], tmp_path: Path
) -> None:
    """Uniform: 20 rows, 3 buckets, 1,000 packings. With O how often row i came to place j,
    (n - 1) / n · Σ (O - E)² / E has a chi-square distribution with (n - 1)² degrees of
    freedom; it lies within 3.29 standard deviations. See Note [Statistical tests]."""
    rows, packings = 20, 1000
    numbers, x = np.arange(rows, dtype=np.uint64), np.zeros((rows, 2), np.float32)
    counts = np.zeros((rows, rows))
    for seed in range(packings):
        buckets = Buckets(tmp_path, 3, seed, source[1])
        buckets.add(x, numbers)
        order = b"".join(map(bytes, buckets.shuffled("keys")))
        assert b"".join(map(bytes, buckets.shuffled("rows"))) == x.tobytes()
        counts[np.frombuffer(order, np.uint64), np.arange(rows)] += 1

    expected, freedom = packings / rows, (rows - 1) ** 2
    chi_square = (rows - 1) / rows * float(np.square(counts - expected).sum() / expected)
    assert abs(chi_square - freedom) < 3.29 * np.sqrt(2 * freedom)


def test_packing_again_is_finding(
    source: tuple[Snapshot, Preprocessor], tmp_path: Path
) -> None:
    first = packed_in(tmp_path / "packed", source)
    inode = (first.path / "data" / "rows.bin").stat().st_ino
    again = packed_in(tmp_path / "packed", source)

    assert again.path == first.path
    assert (again.path / "data" / "rows.bin").stat().st_ino == inode
    assert sorted(path.name for path in (first.path / "data").iterdir()) == [
        "keys.bin",
        "rows.bin",
    ]
    assert list((tmp_path / "packed" / ".staging").rglob("*.bin")) == []
    assert list((tmp_path / "packed" / ".staging" / ".tmp").iterdir()) == []


def test_images_stay_bytes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (100, 9), np.uint8)
    table = pa.table(
        {"id": np.arange(100), "image": pa.array(map(bytes, images), pa.binary(9))}
    )
    snapshot = ingest(table, name="t", root=tmp_path)
    packed = pack(snapshot, fit_preprocessor(snapshot), root=tmp_path / "packed", seed=0)

    x, _ = everything(packed)
    assert (str(x.dtype), packed.row_bytes) == ("uint8", 9)
    assert sorted(map(bytes, x)) == sorted(snapshot.table("train")["image"].to_pylist())


def test_a_damaged_file_is_found_out(
    source: tuple[Snapshot, Preprocessor], tmp_path: Path
) -> None:
    packed = packed_in(tmp_path / "packed", source)
    packed.verify()
    keys = packed.path / "data" / "keys.bin"
    keys.write_bytes(keys.read_bytes()[:-8])

    with pytest.raises(FormatError, match=r"data/keys.bin is not the file that was published"):
        open_packed(packed.path).verify()
    with pytest.raises(EOFError, match="packed rows end 8 bytes early; pack them again"):
        everything(packed)
