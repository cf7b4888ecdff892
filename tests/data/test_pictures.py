from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import data.picture
import data.pictures
from data.formats import SourceError
from data.inference import infer_contract
from data.sources import open_source
from data.survey import survey

RANDOM = np.random.default_rng(0)


def picture(path: Path, shape: tuple[int, ...] = (4, 5), **options: Any) -> np.ndarray:
    pixels = RANDOM.integers(0, 256, shape, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def rows_of(folder: Path) -> list[dict[str, Any]]:
    source = open_source(folder)
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


def test_a_folder_of_grey_pictures_is_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.pictures, "READ_BYTES", 40)  # two at a time
    images = {name: picture(tmp_path / name) for name in ("b.png", "a.png", "c.png")}

    assert rows_of(tmp_path) == [
        {"id": name, "image": images[name].tobytes()} for name in ("a.png", "b.png", "c.png")
    ]


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        picture(tmp_path / name, (4, 5, 3))
    source = open_source(tmp_path)
    seen = survey(source.batches(), source.schema)
    contract = infer_contract(seen, name="pets")

    labels = [(row["id"], row["label"]) for row in rows_of(tmp_path)]
    assert labels == [("cat/1.png", "cat"), ("dog/1.png", "dog"), ("dog/2.png", "dog")]
    assert (contract.key, contract.label) == ("id", "label")
    column = contract["image"]
    assert (column.kind, column.height, column.width, column.channels) == ("pixels", 4, 5, 3)


def test_a_colour_picture_among_grey_ones_makes_all_of_them_colour(tmp_path: Path) -> None:
    grey = picture(tmp_path / "a.png")
    colour = picture(tmp_path / "b.png", (4, 5, 3))

    images = [row["image"] for row in rows_of(tmp_path)]
    assert images == [np.repeat(grey.ravel(), 3).tobytes(), colour.tobytes()]


def test_jpeg_is_read_and_transparency_is_dropped(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", (8, 8), quality=95)
    clear = picture(tmp_path / "b.png", (8, 8, 4))

    rows = rows_of(tmp_path)
    assert len(rows[0]["image"]) == 8 * 8 * 3
    assert rows[1]["image"] == clear[..., :3].tobytes()


def test_pictures_of_other_sizes_are_named(tmp_path: Path) -> None:
    for name, shape in (("a.png", (4, 5)), ("b.png", (4, 6)), ("c.png", (4, 7))):
        picture(tmp_path / name, shape)

    with pytest.raises(SourceError) as caught:
        rows_of(tmp_path)
    assert str(caught.value) == (
        f"2 of 3 pictures have another size than the first: {tmp_path}/b.png is 6 × 4, "
        f"{tmp_path}/a.png is 5 × 4; resize them"
    )


def test_the_digest_changes_when_a_picture_does(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    before = open_source(tmp_path).digest
    assert open_source(tmp_path).digest == before
    picture(tmp_path / "a.png")

    assert open_source(tmp_path).digest != before


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (40, 50))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"a.png is damaged .*; write it again"):
        rows_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"GIF89a" + whole)
    with pytest.raises(SourceError, match=r"a.png is no PNG or JPEG; write it again"):
        rows_of(tmp_path)


def test_a_picture_that_would_unpack_to_a_giant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2b, decompression bomb: told by the head, before a pixel is unpacked."""
    monkeypatch.setattr(data.picture, "MAX_PIXELS", 19)
    picture(tmp_path / "a.png")

    with pytest.raises(SourceError, match="would unpack to more than 67,108,864 pixels"):
        rows_of(tmp_path)


def test_deep_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 60_000, (4, 5), np.uint16)).save(tmp_path / "a.png")

    with pytest.raises(SourceError, match="has more than eight bits a pixel; convert it"):
        rows_of(tmp_path)


def test_every_changed_byte_of_a_png_is_found(tmp_path: Path) -> None:
    """Decoding alone passes over checksums: some changes were read as other pixels."""
    path = tmp_path / "a.png"
    image = np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8)
    Image.fromarray(image).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            (batch,) = open_source(tmp_path).batches()
        except SourceError:
            continue
        assert batch["image"].to_pylist() == [image.tobytes()]  # the byte means nothing
