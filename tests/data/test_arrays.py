import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.files import file_reader
from data.formats import Reader, Reading, SourceError


def open_file(path: Path) -> Reader:
    return file_reader(path, Reading())


def rows_of(path: Path) -> list[dict[str, Any]]:
    reader = open_file(path)
    return list(pa.Table.from_batches(reader.read(), reader.schema).to_pylist())


def save(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "t.npy", array)
    return tmp_path / "t.npy"


def save_all(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "t.npz", **arrays)
    return tmp_path / "t.npz"


def test_a_matrix_is_a_column_of_lists(tmp_path: Path) -> None:
    rows = rows_of(save(tmp_path, np.arange(6.0).reshape(3, 2)))

    assert rows == [{"x": [0, 1]}, {"x": [2, 3]}, {"x": [4, 5]}]


def test_images_are_bytes_with_a_shape(tmp_path: Path) -> None:
    reader = open_file(save(tmp_path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    field = reader.schema.field("image")

    assert (field.type, field.metadata) == (pa.binary(12), {b"image_shape": b"[3, 4]"})
    assert [row["image"] for row in rows_of(tmp_path / "t.npy")] == [
        bytes(range(12)),
        bytes(range(12, 24)),
    ]


def test_arrays_of_an_npz_are_columns(tmp_path: Path) -> None:
    path = save_all(tmp_path, label=np.array(["u", "v"]), x=np.eye(2, dtype=np.float32))

    assert rows_of(path) == [{"label": "u", "x": [1, 0]}, {"label": "v", "x": [0, 1]}]


PARTS = {"train": 3, "val": 2, "test": 2}


@pytest.mark.parametrize("pattern", ["{column}_{part}", "{part}_{column}", "{part}-{column}"])
def test_arrays_of_each_part_lie_below_each_other(tmp_path: Path, pattern: str) -> None:
    """As Keras (x_train) and MedMNIST (train_images) write their data sets."""
    images = {part: np.full((n, 2, 2), n, np.uint8) for part, n in PARTS.items()}
    arrays = {pattern.format(column="images", part=part): x for part, x in images.items()}
    arrays |= {
        pattern.format(column="labels", part=part): np.full((n, 1), n)
        for part, n in PARTS.items()
    }
    rows = rows_of(save_all(tmp_path, **arrays))

    assert [row["split"] for row in rows] == ["train"] * 3 + ["valid"] * 2 + ["test"] * 2
    assert [row["labels"] for row in rows] == [3, 3, 3, 2, 2, 2, 2]
    assert rows[3]["images"] == bytes([2] * 4)


def test_parts_without_names_of_arrays_are_parts_too(tmp_path: Path) -> None:
    rows = rows_of(save_all(tmp_path, train=np.zeros((2, 3)), test=np.ones((1, 3))))

    assert [(row["x"], row["split"]) for row in rows[1:]] == [
        ([0] * 3, "train"),
        ([1] * 3, "test"),
    ]


def test_as_many_numbers_of_each_part_are_columns(tmp_path: Path) -> None:
    """Scores of as many models, say."""
    path = save_all(tmp_path, train_score=np.zeros(2), test_score=np.ones(2))

    assert rows_of(path) == [{"train_score": 0, "test_score": 1}] * 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": np.zeros(3), "x_test": np.zeros((2, 4))},
        {"x_train": np.zeros(3), "x_test": np.zeros(2), "y_train": np.zeros(3)},
        {"x_train": np.zeros(3), "x_test": np.zeros(2), "y": np.zeros(3)},
        {"x_test": np.zeros(3), "x_val": np.zeros(2)},
        {"x_train": np.zeros(3), "x_val": np.zeros(2), "x_dev": np.zeros(2)},  # one role
    ],
)
def test_arrays_that_are_no_parts_of_one_table_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(SourceError, match="different lengths"):
        rows_of(save_all(tmp_path, **arrays))


def test_colours_are_the_last_axis_wherever_they_were(tmp_path: Path) -> None:
    """PyTorch has them first."""
    images = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    last = rows_of(save_all(tmp_path, image=images))
    first = open_file(save_all(tmp_path, image=np.moveaxis(images, 3, 1)))

    assert first.schema.field("image").metadata == {b"image_shape": b"[5, 4, 3]"}
    assert pa.Table.from_batches(first.read()).to_pylist() == last


def test_fields_of_a_structured_array_are_columns(tmp_path: Path) -> None:
    array = np.array([(1, 0.5), (2, 1.5)], dtype=[("a", "i4"), ("b", "f8")])

    assert rows_of(save(tmp_path, array)) == [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}]


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"different lengths \{'a': 2, 'b': 3\}"):
        rows_of(save_all(tmp_path, a=np.zeros(2), b=np.zeros(3)))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(SourceError, match="Python objects in dtype"):
        rows_of(tmp_path / "t.npy")


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 3], np.uint8)


def idx(path: Path, array: np.ndarray, code: int = 8) -> Path:
    """What MNIST's files are: two zeros, a type, the axes, then the numbers, big end first."""
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    content = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_images_find_their_labels(tmp_path: Path, suffix: str) -> None:
    images = idx(tmp_path / f"train-images-idx3-ubyte{suffix}", IMAGES)
    alone = open_file(images).digest()
    idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", LABELS)

    rows = rows_of(images)
    assert rows == [
        {"image": bytes(range(12)), "label": 7},
        {"image": bytes(range(12, 24)), "label": 3},
    ]
    assert open_file(images).schema.field("image").metadata == {b"image_shape": b"[3, 4]"}
    assert open_file(images).digest() != alone


def test_idx_files_may_hold_other_numbers(tmp_path: Path) -> None:
    values = np.array([[1.5, -2], [3, 4]], np.float32)

    assert rows_of(idx(tmp_path / "x.idx", values, 13)) == [{"x": [1.5, -2]}, {"x": [3, 4]}]


IDX_TROUBLE = {
    "cut short": (lambda whole: whole[:-1], "is cut short; write it again"),
    "cut in its head": (lambda whole: whole[:6], "is cut short; write it again"),
    "too long": (
        lambda whole: whole + b"x",
        r"goes on behind the \(2, 3, 4\) that it announces",
    ),
    "another format": (lambda whole: b"PNG" + whole, "does not begin as an IDX file does"),
}


@pytest.mark.parametrize("what", IDX_TROUBLE)
def test_an_idx_file_in_trouble_is_refused(tmp_path: Path, what: str) -> None:
    damage, message = IDX_TROUBLE[what]
    path = idx(tmp_path / "images-idx3-ubyte", IMAGES)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(SourceError, match=message):
        rows_of(path)


def test_an_idx_file_that_would_unpack_to_a_giant_is_refused(tmp_path: Path) -> None:
    """RELIABILITY 2b, decompression bomb: told by the head, before a byte is unpacked."""
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**10, 2**10)))

    with pytest.raises(SourceError, match=r"bytes and would unpack to 2,251,799,813,685,248"):
        rows_of(path)
