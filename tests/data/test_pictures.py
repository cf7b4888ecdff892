import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import data.picture
import data.pictures
from data.contract import SpecError
from data.draft import draft_spec
from data.formats import SourceError
from data.inference import infer_contract
from data.snapshot import Snapshot, ingest
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


def test_pictures_of_several_sizes_are_scaled_to_their_medians(tmp_path: Path) -> None:
    shapes = {"a.png": (40, 20, 3), "b.png": (50, 30, 3), "c.png": (60, 90, 3)}
    for name, shape in shapes.items():
        picture(tmp_path / name, shape)
    source = open_source(tmp_path)
    column = infer_contract(survey(source.batches(), source.schema), name="pets")["image"]

    assert (column.height, column.width, column.channels, column.scaled) == (50, 30, 3, True)
    assert "scaled from 3 sizes between 20 × 40 and 90 × 60" in column.why
    images = {row["id"]: row["image"] for row in rows_of(tmp_path)}
    middle = np.asarray(Image.open(tmp_path / "b.png"))
    assert images["b.png"] == middle.tobytes()
    assert len(images["c.png"]) == 50 * 30 * 3


def test_a_scaled_picture_looks_like_it(tmp_path: Path) -> None:
    """Dark left, light right, at any size: averages, not the nearest of its pixels."""
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    Image.fromarray(np.tile(ramp, (150, 1))).save(tmp_path / "a.png")

    (row,) = rows_of(tmp_path)

    pixels = np.frombuffer(row["image"], np.uint8).reshape(48, 64).astype(float)
    assert pixels[0] == pytest.approx(np.linspace(2, 253, 64), abs=3)
    assert np.ptp(pixels, axis=0).max() <= 1


def kept(folder: Path, root: Path, **settings: Any) -> Snapshot:
    return ingest(folder, name="pets", root=root, **settings)


def test_later_pictures_of_any_size_are_scaled_alike(tmp_path: Path) -> None:
    for k, shape in enumerate([(8, 9), (10, 11), (12, 13)]):
        picture(tmp_path / "one" / f"{k}.png", shape)
        picture(tmp_path / "two" / f"{k}.png", (30, 20))

    first, later = (kept(tmp_path / name, tmp_path / "root") for name in ("one", "two"))

    assert (first.contract["image"].height, first.contract["image"].width) == (10, 11)
    assert first.contract.digest == later.contract.digest
    assert later.table()["image"].type.byte_width == 10 * 11


def test_later_pictures_of_another_size_are_named_where_the_first_had_one(
    tmp_path: Path,
) -> None:
    for k, shape in enumerate([(4, 5), (4, 6)]):
        picture(tmp_path / "one" / f"{k}.png", (4, 5))
        picture(tmp_path / "two" / f"{k}.png", shape)
    assert not kept(tmp_path / "one", tmp_path / "root").contract["image"].scaled

    with pytest.raises(
        SourceError, match=r"two/1.png is 6 × 4, those before it are 5 × 4; resize them, or set"
    ):
        kept(tmp_path / "two", tmp_path / "root")


def test_a_person_may_say_the_size(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "pets" / name, (8, 8, 3))
    said = {"image": {"height": 2, "width": 4}}

    column = kept(tmp_path / "pets", tmp_path / "a", overrides=said).contract["image"]
    same = {"image": {"height": 8, "width": 8}}
    plain = kept(tmp_path / "pets", tmp_path / "b", overrides=same).contract["image"]

    assert (column.height, column.width, column.entries, column.scaled) == (2, 4, 24, True)
    assert not plain.scaled


def test_a_photograph_stands_as_its_camera_was_held(tmp_path: Path) -> None:
    upright = RANDOM.integers(0, 256, (8, 16, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right, when it is shown
    lying = Image.fromarray(np.rot90(upright))
    lying.save(tmp_path / "a.png", exif=turned)

    source = open_source(tmp_path)
    (row,) = rows_of(tmp_path)

    column = infer_contract(survey(source.batches(), source.schema), name="pets")["image"]
    assert (column.height, column.width) == (8, 16)
    assert row["image"] == upright.tobytes()


@pytest.mark.parametrize("height", [0, -1, 2.5, "8", True])
def test_a_size_that_is_none_is_refused(tmp_path: Path, height: object) -> None:
    picture(tmp_path / "pets" / "a.png")

    with pytest.raises(
        SpecError, match="column 'image': height and width are numbers of pixels"
    ):
        kept(
            tmp_path / "pets",
            tmp_path / "a",
            overrides={"image": {"height": height, "width": 8}},
        )


def test_large_pictures_are_scaled_unless_a_person_says_their_size(tmp_path: Path) -> None:
    picture(tmp_path / "pets" / "a.png", (130, 260))

    column = kept(tmp_path / "pets", tmp_path / "a").contract["image"]
    said = {"image": {"height": 130, "width": 260}}
    whole = kept(tmp_path / "pets", tmp_path / "b", overrides=said).contract["image"]

    assert (column.height, column.width) == (32, 64)
    assert "scaled from 260 × 130" in column.why
    assert (whole.height, whole.width, whole.scaled) == (130, 260, False)


def test_the_draft_leads_to_the_same_contract(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "pets" / f"{k}.png", (8 + k, 9))

    spec = tomllib.loads(draft_spec(str(tmp_path / "pets"), name="pets"))

    drafted = spec["dataset"]["columns"]
    contract = kept(tmp_path / "pets", tmp_path / "a").contract
    again = kept(
        tmp_path / "pets", tmp_path / "b", key="id", overrides={"image": drafted["image"]}
    ).contract
    assert again.digest == contract.digest


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
