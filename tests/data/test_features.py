import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from data.contract import ColumnContract, Contract, UnknownNameError
from data.features import (
    FORMAT,
    VERSION,
    Features,
    NotPublishedError,
    feature_names,
    features_table,
    latest_of,
    list_publications,
    open_features,
    write_latest,
)
from data.publication import FormatError, Staging

RANDOM = np.random.default_rng(0)
ROWS, LATENTS = 50, 3
CONTRACT = Contract(
    name="people",
    columns=(
        ColumnContract(name="id", kind="key", dtype="int64"),
        ColumnContract(name="x", kind="continuous", dtype="double"),
        ColumnContract(name="label", kind="label", dtype="string"),
        ColumnContract(name="city", kind="carry", dtype="string"),
        ColumnContract(name="at", kind="timestamp", dtype="timestamp[us, tz=UTC]"),
    ),
)
SNAPSHOT = pa.table(
    {
        "id": np.arange(ROWS),
        "x": RANDOM.normal(size=ROWS),
        "label": ["u", "v"] * (ROWS // 2),
        "city": ["c"] * ROWS,
        "at": pa.array(np.arange(ROWS), pa.timestamp("us", "UTC")),
        "split": ["train"] * 30 + ["valid"] * 10 + ["test"] * 10,
    }
)
MEAN = RANDOM.normal(size=(ROWS, LATENTS)).astype(np.float32)
STDDEV = RANDOM.uniform(0.1, 1, (ROWS, LATENTS)).astype(np.float32)


def publish(home: Path, *, version: int = 1, publication: str = "abc", **settings: Any) -> Path:
    """Two parts, as an encoding run leaves them."""
    root = home / "features"
    staging = Staging(root, publication)
    parts = []
    for number, rows in enumerate((slice(0, 20), slice(20, ROWS))):
        table = features_table(
            SNAPSHOT.slice(rows.start, rows.stop - rows.start),
            CONTRACT,
            MEAN[rows],
            STDDEV[rows],
            model_version=version,
            **settings,
        )
        parts.append(staging.write_part(number, table, {}))
    final = root / "people" / f"model_version=v{version}" / f"publication={publication}"
    header = {"format": FORMAT, "format_version": VERSION, "latents": LATENTS}
    return staging.commit(final, parts, header)


def point(
    home: Path, *, version: int = 1, publication: str = "abc", champion: bool = True
) -> None:
    write_latest(
        home / "features", "people", version=version, publication=publication, champion=champion
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path)
    point(tmp_path)
    return tmp_path


@pytest.fixture
def features(home: Path) -> Features:
    return open_features("people", home=home)


def test_columns_are_as_the_design_says(features: Features) -> None:
    assert features.schema.names == [
        "id", "split", "label", "city",
        "z_mean_000", "z_mean_001", "z_mean_002",
        "z_stddev_000", "z_stddev_001", "z_stddev_002",
        "model_version", "event_timestamp",
    ]  # fmt: skip
    assert features.schema.field("z_mean_000").type == pa.float32()
    assert str(features.schema.field("event_timestamp").type) == "timestamp[us, tz=UTC]"
    assert features.schema.field("model_version").type == pa.dictionary(pa.int8(), pa.string())


def test_every_row_is_there_once_in_order(features: Features) -> None:
    frame = features.to_pandas()

    assert frame["id"].tolist() == list(range(ROWS))
    np.testing.assert_array_equal(frame[feature_names("z_mean", LATENTS)], MEAN)
    assert set(frame["model_version"]) == {"v1"}
    assert (features.rows, features.latents) == (ROWS, LATENTS)


@pytest.mark.parametrize("layout", ["wide", "vector"])
def test_numpy_is_rows_by_latents_in_any_layout(tmp_path: Path, layout: str) -> None:
    publish(tmp_path, layout=layout)
    point(tmp_path)
    features = open_features("people", home=tmp_path)

    np.testing.assert_array_equal(features.to_numpy("z_mean"), MEAN)
    np.testing.assert_array_equal(features.to_numpy("z_stddev", split="test"), STDDEV[40:])


def test_columns_and_splits_are_chosen_while_reading(features: Features) -> None:
    frame = features.to_pandas(columns=["id", "z_mean_000"], split="test")

    assert list(frame.columns) == ["id", "z_mean_000"]
    assert frame["id"].tolist() == list(range(40, 50))


def test_batches_are_bounded_and_complete(features: Features) -> None:
    batches = list(features.batches(rows=7))

    assert max(map(len, batches)) == 7
    assert pa.Table.from_batches(batches).equals(features.to_arrow())


def test_an_empty_split_is_an_empty_table(features: Features) -> None:
    assert features.to_arrow(["id"], split="nothing").num_rows == 0


def test_features_join_a_frame_by_key(features: Features) -> None:
    frame = pd.DataFrame({"id": [3, 1, 99], "city": ["mine"] * 3})
    joined = features.join(frame, on="id")

    assert joined["id"].tolist() == [3, 1]
    assert joined["city"].tolist() == ["mine", "mine"]
    np.testing.assert_array_equal(joined["z_mean_001"], MEAN[[3, 1], 1])
    with pytest.raises(pd.errors.MergeError):
        features.join(pd.concat([frame, frame]), on="id")


def test_pandas_polars_and_duckdb_read_the_folder(features: Features) -> None:
    folder = str(features.path / "data")
    query = (
        f"select id, z_mean_000 as z, model_version as v from '{folder}/*.parquet' order by id"
    )
    frames = {
        "pandas": pd.read_parquet(folder),
        "polars": pl.read_parquet(folder).to_pandas(),
        "duckdb": duckdb.execute(query)
        .df()
        .rename(columns={"z": "z_mean_000", "v": "model_version"}),
    }

    for frame in frames.values():
        assert frame["id"].tolist() == list(range(ROWS))
        np.testing.assert_array_equal(frame["z_mean_000"], MEAN[:, 0])
        assert set(frame["model_version"]) == {"v1"}


def test_samples_and_bounds_come_when_asked_for() -> None:
    table = features_table(
        SNAPSHOT,
        CONTRACT,
        MEAN,
        STDDEV,
        model_version=1,
        layout="vector",
        samples=np.stack([MEAN, STDDEV]),
        elbo_nats=MEAN[:, 0],
    )

    assert table.column_names[4:9] == [
        "z_mean",
        "z_stddev",
        "z_sample_0",
        "z_sample_1",
        "elbo_nats",
    ]
    assert table["z_sample_1"].to_pylist() == table["z_stddev"].to_pylist()
    assert table["z_mean"].type == pa.list_(pa.float32(), LATENTS)


def test_an_unknown_layout_gets_the_near_miss() -> None:
    with pytest.raises(ValueError, match="unknown layout 'wid'; did you mean 'wide'"):
        features_table(SNAPSHOT, CONTRACT, MEAN, STDDEV, model_version=1, layout="wid")


def test_a_version_can_be_pinned_and_the_champion_is_the_default(tmp_path: Path) -> None:
    for version in (1, 2):
        publish(tmp_path, version=version, publication=f"p{version}")
        point(tmp_path, version=version, publication=f"p{version}", champion=version == 1)

    def opened(**pins: Any) -> str:
        return open_features("people", home=tmp_path, **pins).path.name

    assert opened() == "publication=p1"
    assert opened(model_version=2) == "publication=p2"
    assert opened(publication="p2") == "publication=p2"
    assert [(p.model_version, p.latest) for p in list_publications(tmp_path)] == [
        (1, True),
        (2, False),
    ]


def test_the_pointer_file_is_as_agreed(home: Path) -> None:
    point(home, version=2, publication="def", champion=False)

    assert json.loads((home / "features" / "people" / "latest.json").read_text()) == {
        "format": "latent-features/latest",
        "format_version": 1,
        "champion": {"model_version": 1, "publication": "abc"},
        "versions": {"1": "abc", "2": "def"},
    }


def test_without_a_pointer_nothing_is_current(tmp_path: Path) -> None:
    assert latest_of(tmp_path, "people") == {"champion": None, "versions": {}}


@pytest.mark.parametrize(
    ("name", "pins", "message"),
    [
        ("peple", {}, "unknown data set 'peple'; did you mean 'people'?"),
        ("people", {"model_version": 7}, "by model version 7; published: 1"),
        (
            "people",
            {"publication": "abd"},
            "unknown publication of 'people' 'abd'; did you mean 'abc'?",
        ),
    ],
)
def test_what_is_not_published_gets_the_near_miss(
    home: Path, name: str, pins: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotPublishedError) as caught:
        open_features(name, home=home, **pins)
    assert message in str(caught.value)


def test_without_a_champion_one_must_pin(tmp_path: Path) -> None:
    publish(tmp_path)
    point(tmp_path, champion=False)

    with pytest.raises(NotPublishedError, match="pin one with model_version=, of 1"):
        open_features("people", home=tmp_path)


def test_an_empty_home_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotPublishedError, match="nothing is published there"):
        open_features("people", home=tmp_path)


def test_an_unknown_column_gets_the_near_miss(features: Features) -> None:
    with pytest.raises(
        UnknownNameError, match="unknown column 'z_mean_00'; did you mean 'z_mean_0"
    ):
        features.to_pandas(columns=["z_mean_00"])


def test_a_damaged_file_is_refused(home: Path, features: Features) -> None:
    part = features.path / features.manifest["parts"][0]["path"]
    content = bytearray(part.read_bytes())
    content[100] ^= 1
    part.write_bytes(content)

    with pytest.raises(FormatError, match="is damaged"):
        features.to_arrow()
    with pytest.raises(FormatError, match="is not the file that was published"):
        open_features("people", home=home, verify=True)


def test_an_undamaged_publication_verifies(home: Path) -> None:
    assert open_features("people", home=home, verify=True).rows == ROWS


EVENTS = pa.table(
    {
        "id": [1, 2, 3, 4],
        "x": [0.0] * 4,
        "label": ["u"] * 4,
        "city": ["a", "a", "b", "a"],
        "at": pa.array([10, 20, 15, 30], pa.timestamp("us", "UTC")),
        "split": ["train"] * 4,
    }
)


@pytest.fixture
def events(tmp_path: Path) -> Features:
    """Events of two cities, whose one latent is the event's number."""
    staging = Staging(tmp_path / "features", "ev")
    values = np.arange(1, 5, dtype=np.float32)[:, None]
    table = features_table(EVENTS, CONTRACT, values, values, model_version=1)
    final = tmp_path / "features" / "people" / "model_version=v1" / "publication=ev"
    header = {"format": FORMAT, "format_version": VERSION, "latents": 1}
    staging.commit(final, [staging.write_part(0, table, {})], header)
    point(tmp_path, publication="ev")
    return open_features("people", home=tmp_path)


def asked(
    cities: list[str], micros: list[int | None], zone: str | None = "UTC"
) -> pd.DataFrame:
    times = pa.array(micros, pa.timestamp("us", zone))
    return pa.table({"city": cities, "when": times}).to_pandas()


def test_a_join_as_of_a_time_sees_nothing_later(events: Features) -> None:
    frame = asked(["a", "b", "a", "a", "b", "c"], [25, 15, 9, 999, 14, 99])
    joined = events.join(frame, on="city", as_of="when")

    assert list(zip(joined["city"], joined["z_mean_000"], strict=True)) == [
        ("a", 2),  # the event of 20, not that of 30
        ("b", 3),  # at the very moment
        ("a", 4),
    ]
    assert (joined["event_timestamp"] <= joined["when"]).all()
    assert "__known_from" not in joined.columns


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_times_of_any_zone_are_compared(events: Features, zone: str | None) -> None:
    joined = events.join(asked(["a", "a"], [25, None], zone), on="city", as_of="when")

    assert joined["z_mean_000"].tolist() == [2]


def test_a_frame_may_call_its_times_event_timestamp(events: Features) -> None:
    frame = asked(["a"], [25]).rename(columns={"when": "event_timestamp"})
    joined = events.join(frame, on="city", as_of="event_timestamp")

    assert joined["z_mean_000"].tolist() == [2]
    assert joined["event_timestamp"].equals(frame["event_timestamp"])
