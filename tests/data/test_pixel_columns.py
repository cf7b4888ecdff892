"""A column for each pixel is a picture, and what only looks alike is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data.formats import SourceError
from data.inference import infer_contract
from data.pixel_columns import grid_of
from data.sources import open_source
from data.survey import survey

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5), np.uint8)
COUNTED = [f"pixel{k}" for k in range(25)]


def table(names: list[str], images: np.ndarray = IMAGES) -> pa.Table:
    flat = images.reshape(len(images), -1)
    columns = {name: pa.array(flat[:, k].astype(int)) for k, name in enumerate(names)}
    return pa.table({"label": pa.array(range(len(images))), **columns})


def rows_of(source: pa.Table | Path) -> pa.Table:
    opened = open_source(source)
    return pa.Table.from_batches(opened.batches(), opened.schema)


@pytest.mark.parametrize(
    "names",
    [
        COUNTED,
        [f"Pixel_{k}" for k in range(1, 26)],
        [f"{row}x{column}" for row in range(1, 6) for column in range(1, 6)],
    ],
)
def test_pixels_are_one_picture(names: list[str]) -> None:
    whole = table(names)
    rows = rows_of(whole.select(["label", *reversed(names)]))

    assert rows.column_names == ["label", "image"]
    assert rows["image"].to_pylist() == [image.tobytes() for image in IMAGES]
    assert rows.schema.field("image").metadata == {b"image_shape": b"[5, 5]"}


def test_in_files_too(tmp_path: Path) -> None:
    pa.csv.write_csv(table(COUNTED), tmp_path / "t.csv")
    pq.write_table(table(COUNTED), tmp_path / "t.parquet")

    assert (
        rows_of(tmp_path / "t.csv")
        == rows_of(tmp_path / "t.parquet")
        == rows_of(table(COUNTED))
    )
    source = open_source(tmp_path / "t.csv")
    contract = infer_contract(survey(source.batches(), source.schema), name="digits")
    assert (contract["image"].kind, contract["image"].height) == ("pixels", 5)


def test_a_picture_that_lacks_a_pixel_is_missing() -> None:
    gap = pa.array([1, None, 2, 3, 4, 5])
    whole = table(COUNTED)
    images = rows_of(whole.set_column(4, "pixel3", gap))["image"].to_pylist()

    assert images[1] is None
    assert images[0][3] == 1
    assert images[0][4:] == IMAGES[0].tobytes()[4:]


@pytest.mark.parametrize(
    "names",
    [
        COUNTED[:-1],  # no square
        [*COUNTED[:-1], "pixel25"],  # one is left out
        [f"{k}x{k}" for k in range(25)],
        [f"f{k}" for k in range(25)],
        COUNTED[:4],  # 2 x 2
    ],
)
def test_what_is_no_whole_picture_stays_apart(names: list[str]) -> None:
    assert grid_of(pa.schema([(name, pa.int64()) for name in names])) is None


def test_pixels_with_fractions_stay_apart() -> None:
    assert grid_of(pa.schema([(name, pa.float64()) for name in COUNTED])) is None


def test_a_pixel_that_is_there_twice_is_told() -> None:
    whole = table(COUNTED)
    with pytest.raises(SourceError, match=r"share a name: \['pixel3'\]"):
        rows_of(whole.append_column("pixel3", whole["pixel3"]))


def test_pixels_beyond_a_byte_are_told() -> None:
    with pytest.raises(SourceError, match="'pixel7' is a pixel by its name and holds numbers"):
        rows_of(table(COUNTED, IMAGES.astype(int) + 256 * (np.arange(25) == 7).reshape(5, 5)))
