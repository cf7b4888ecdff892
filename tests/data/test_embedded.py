"""Pictures in the cells of a table are pixels, as those of a folder are."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

import data.embedded
from data.bucket import S3Path
from data.formats import Reading, SourceError
from data.inference import infer_contract
from data.quarantine import VARIABLE as QUARANTINE
from data.sources import open_source
from data.survey import survey
from tests.data.stores import object_store

RANDOM = np.random.default_rng(0)
GREY = [RANDOM.integers(0, 256, (4, 5), np.uint8) for _ in range(7)]
COLOUR = RANDOM.integers(0, 256, (4, 5, 3), np.uint8)
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(params=["off", ""])
def _quarantine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUARANTINE, request.param)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files(contents: Sequence[bytes | None]) -> pa.Array:
    """As Hugging Face's `datasets` writes them."""
    return pa.array([{"bytes": content, "path": None} for content in contents], FILE)


def table(column: pa.Array) -> pa.Table:
    return pa.table({"image": column, "label": pa.array(range(len(column)))})


def images(source: Any, reading: Reading | None = None) -> Sequence[bytes | None]:
    opened = open_source(source, reading=reading)
    return pa.Table.from_batches(opened.batches(), opened.schema)["image"].to_pylist()


def written(folder: Path, column: pa.Array) -> Path:
    path = folder / "t.parquet"
    pq.write_table(table(column), path)
    return path


@pytest.mark.usefixtures("_quarantine")
@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_files_in_cells_are_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(data.embedded, "READ_BYTES", 60)  # three at a time
    contents = [png(pixels) for pixels in GREY]
    column = files(contents) if kind == "struct" else pa.array(contents, kind)

    assert images(written(tmp_path, column)) == [pixels.tobytes() for pixels in GREY]


def test_a_column_of_them_is_one_of_pixels(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, files([png(COLOUR)] * 3)))
    contract = infer_contract(survey(source.batches(), source.schema), name="pets")

    column = contract["image"]
    assert (column.kind, column.height, column.width, column.channels) == ("pixels", 4, 5, 3)
    assert contract.label == "label"


@pytest.mark.usefixtures("_quarantine")
def test_a_colour_picture_makes_all_of_them_colour(tmp_path: Path) -> None:
    path = written(tmp_path, files([png(GREY[0]), png(COLOUR), png(GREY[1])]))

    grey, colour, _ = images(path)
    assert (grey, colour) == (np.repeat(GREY[0].ravel(), 3).tobytes(), COLOUR.tobytes())


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "a.png"}])
def test_a_missing_picture_stays_missing(tmp_path: Path, missing: Any) -> None:
    there = {"bytes": png(GREY[0]), "path": None}
    path = written(tmp_path, pa.array([missing, there, missing], FILE))

    assert images(path) == [None, GREY[0].tobytes(), None]


def test_arrow_files_and_tables_in_memory_are_read_alike(tmp_path: Path) -> None:
    whole = table(files([png(pixels) for pixels in GREY]))
    pyarrow.feather.write_feather(whole, tmp_path / "t.arrow")

    expected = [pixels.tobytes() for pixels in GREY]
    assert images(whole) == images(tmp_path / "t.arrow") == expected


@pytest.mark.usefixtures("_quarantine")
def test_other_bytes_stay_as_they_are(tmp_path: Path) -> None:
    contents = [b"nothing", png(GREY[0]), None]

    assert images(written(tmp_path, pa.array(contents, pa.binary()))) == contents


@pytest.mark.usefixtures("_quarantine")
@pytest.mark.parametrize(
    ("last", "says"),
    [
        (png(GREY[0])[:60], "is damaged"),
        (b"nothing", "is no PNG or JPEG; write it again"),
    ],
)
def test_a_picture_that_does_not_fit_is_named(tmp_path: Path, last: bytes, says: str) -> None:
    path = written(tmp_path, files([png(GREY[0]), None, last]))

    with pytest.raises(SourceError, match=f"t.parquet: 'image' of row 3 {says}"):
        images(path)


@pytest.mark.usefixtures("_quarantine")
def test_another_size_is_named_where_pictures_have_one(tmp_path: Path) -> None:
    path = written(tmp_path, files([png(GREY[0]), None, png(COLOUR[:2])]))

    says = "t.parquet: 'image' of row 3 is 5 × 2, those before it are 5 × 4; resize them"
    with pytest.raises(SourceError, match=says):
        images(path, Reading(may_scale=False))


@pytest.mark.usefixtures("_quarantine")
def test_pictures_of_several_sizes_are_scaled_to_one(tmp_path: Path) -> None:
    path = written(tmp_path, files([png(GREY[0]), None, png(COLOUR[:2, :3, 0])]))

    first, missing, last = images(path)
    wanted, _, _ = images(path, Reading(sizes={"image": (2, 2)}))

    assert (first, missing) == (GREY[0].tobytes(), None)
    assert last is not None
    assert wanted is not None
    assert (len(last), len(wanted)) == (4 * 5, 2 * 2)


def test_files_that_follow_the_first_are_scaled_as_it_is(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name, sides in (("a", (4, 5, 6)), ("b", (7, 7, 9)), ("c", (3, 3, 3))):
        pictures = [png(random.integers(0, 256, (side, side), np.uint8)) for side in sides]
        pq.write_table(table(files(pictures)), tmp_path / f"{name}.parquet")

    found = images(tmp_path)

    assert {len(image or b"") for image in found} == {25}
    assert len(found) == 9


def test_those_of_a_bucket_are_copied_first(tmp_path: Path) -> None:
    """All of them are looked at before the first is a row; other bytes stay where they are."""
    contents = [png(pixels) for pixels in GREY]
    with object_store("pets"):
        for name, column in (("a", files(contents)), ("b", pa.array([b"nothing"]))):
            (S3Path("pets") / f"{name}.parquet").replace(written(tmp_path, column))

        assert images("s3://pets/a.parquet") == [pixels.tobytes() for pixels in GREY]
        assert images("s3://pets/b.parquet") == [b"nothing"]
