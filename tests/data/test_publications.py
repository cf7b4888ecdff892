import fcntl
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.contract import ColumnContract, Contract, UnknownNameError
from data.features import (
    FORMAT,
    VERSION,
    Features,
    features_table,
    list_publications,
    open_features,
    write_latest,
)
from data.publication import Staging
from data.publications import (
    collect,
    difference,
    stale_staging,
    stale_temporaries,
    superseded,
)

CONTRACT = Contract(
    name="t",
    columns=(
        ColumnContract(name="id", kind="key", dtype="string"),
        ColumnContract(name="x", kind="continuous", dtype="double"),
        ColumnContract(name="city", kind="carry", dtype="string"),
    ),
)
Latents = dict[str, tuple[float, float]]  # by key
SOME: Latents = {"a": (1, 2), "b": (3, 4), "c": (5, 6), "d": (7, 8)}


def published(
    home: Path,
    latents: Latents,
    *,
    publication: str = "one",
    version: int = 1,
    layout: str = "wide",
    city: str = "x",
    point: bool = False,
) -> Features:
    rows = pa.table(
        {
            "id": pa.array(latents, pa.string()),
            "city": pa.array([city] * len(latents), pa.string()),
            "split": pa.array(["train"] * len(latents), pa.string()),
        }
    )
    mean = np.array(list(latents.values()), np.float32).reshape(len(latents), 2)
    table = features_table(
        rows, CONTRACT, mean, np.ones_like(mean), model_version=version, layout=layout
    )
    staging = Staging(home / "features", publication)
    folder = home / "features" / "t" / f"model_version=v{version}"
    final = folder / f"publication={publication}"
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "latents": 2,
        "model_version": version,
    }
    staging.commit(final, [staging.write_part(0, table, {})], header)
    if point:
        write_latest(
            home / "features", "t", version=version, publication=publication, champion=True
        )
    return open_features("t", home=home, model_version=version, publication=publication)


def test_equal_features_in_another_order_are_the_same(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)
    other = published(tmp_path, dict(reversed(SOME.items())), publication="two")

    found = difference(one, other, key="id")
    assert found.same
    assert (found.rows, found.changed, dict(found.columns)) == ((4, 4), 0, {})


@pytest.mark.parametrize("layout", ["wide", "vector"])
def test_rows_and_columns_that_differ_are_told(tmp_path: Path, layout: str) -> None:
    changed = {"b": (3, 4.5), "c": (5, 6), "d": (float("nan"), 8), "e": (9, 9)}
    one = published(tmp_path, SOME, layout=layout)
    other = published(tmp_path, changed, publication="two", version=2, layout=layout, city="y")

    found = difference(one, other, key="id")
    assert not found.same
    assert (found.added, found.removed, found.changed) == (1, 1, 3)
    assert found.columns["city"] == 1.0
    assert found.columns["model_version"] == 1.0
    if layout == "wide":
        assert (found.columns["z_mean_000"], found.columns["z_mean_001"]) == (np.inf, 0.5)
    else:
        assert found.columns["z_mean"] == np.inf
    assert found.manifest == {"model_version": (1, 2)}


def test_columns_of_one_alone_are_named(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)
    other = published(tmp_path, SOME, publication="two", layout="vector")

    assert set(difference(one, other, key="id").only_in_one) == {
        *(f"z_{name}_00{k}" for name in ("mean", "stddev") for k in (0, 1)),
        "z_mean",
        "z_stddev",
    }


def test_nan_is_equal_to_nan(tmp_path: Path) -> None:
    latents = {"a": (float("nan"), 1.0)}
    one = published(tmp_path, latents)
    other = published(tmp_path, latents, publication="two")

    assert difference(one, other, key="id").same


def test_a_key_that_does_not_exist_is_named(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)

    with pytest.raises(UnknownNameError, match="unknown column 'idd'; did you mean 'id'"):
        difference(one, one, key="idd")


values = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1
)


@settings(max_examples=15)  # each publishes twice, durably
@given(values, values)
def test_a_difference_read_backwards_is_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, one: Latents, other: Latents
) -> None:
    home = tmp_path_factory.mktemp("home")
    first = published(home, one)
    second = published(home, other, publication="two")
    there, back = difference(first, second, key="id"), difference(second, first, key="id")

    common = one.keys() & other.keys()
    assert there.added == back.removed == len(other.keys() - common)
    assert there.changed == back.changed == sum(one[k] != other[k] for k in common)
    assert there.columns == back.columns


def aged(path: Path, hours: float) -> Path:
    then = time.time() - 3600 * hours
    for entry in [*path.rglob("*"), path]:
        os.utime(entry, (then, then))
    return path


def abandoned(root: Path, name: str, hours: float) -> Path:
    staging = Staging(root, name)
    staging.write_part(0, pa.table({"x": [1]}), {})
    return aged(staging.path, hours)


def test_staging_that_nobody_works_in_is_cleared_away(tmp_path: Path) -> None:
    """RELIABILITY 2a, garbage collection: unreferenced and older than some hours."""
    old, young = abandoned(tmp_path, "old", 30), abandoned(tmp_path, "young", 3)
    (tmp_path / ".staging" / ".tmp").mkdir(exist_ok=True)
    scrap = tmp_path / ".staging" / ".tmp" / ".tmp-abc"
    scrap.write_bytes(b"half a part")
    aged(scrap, 30)

    found = list(stale_staging(tmp_path))
    assert {each.path for each in found} == {old, scrap}
    count, size = collect(stale_staging(tmp_path))
    assert (count, size) == (2, sum(each.bytes for each in found))
    assert (old.exists(), scrap.exists(), young.exists()) == (False, False, True)


def test_staging_that_somebody_holds_stays(tmp_path: Path) -> None:
    old = abandoned(tmp_path, "old", 30)
    with Staging(tmp_path, "old").lock_path().open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(stale_staging(tmp_path)) == []
    assert [each.path for each in stale_staging(tmp_path)] == [old]


def test_nothing_is_cleared_away_where_nothing_is(tmp_path: Path) -> None:
    assert list(stale_staging(tmp_path)) == []


def test_publications_that_no_pointer_names_go_on_request(tmp_path: Path) -> None:
    for version, publication in ((1, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "e")):
        published(
            tmp_path, SOME, publication=publication, version=version, point=publication in "be"
        )
        time.sleep(0.01)

    found = superseded(tmp_path, "t", hours=0)
    assert [each.path.name for each in found] == ["publication=a"]
    gone = [each.path.name for each in superseded(tmp_path, "t", keep=0, hours=0)]
    assert gone == ["publication=c", "publication=a", "publication=d"]
    collect(superseded(tmp_path, "t", keep=0, hours=0))
    assert [found.publication for found in list_publications(tmp_path, "t")] == ["b", "e"]
    assert open_features("t", home=tmp_path, verify=True).rows == 4


def test_what_was_the_latest_until_just_now_stays_for_its_readers(tmp_path: Path) -> None:
    """Ages count from when the next one came, not from when a publication was made."""
    hours = {"a": 90, "b": 80, "c": 1}
    for publication in hours:
        made = published(tmp_path, SOME, publication=publication, point=publication == "c")
        then = time.time() - 3600 * hours[publication]
        os.utime(made.path, (then, then))

    free = [each.path.name for each in superseded(tmp_path, "t", keep=0)]

    assert free == ["publication=a"]  # b is old, but was followed an hour ago


def test_a_shared_part_outlives_the_publication_it_came_from(tmp_path: Path) -> None:
    earlier = published(tmp_path, SOME, publication="a")
    grown = tmp_path / "grown.parquet"
    grown.hardlink_to(earlier.path / earlier.manifest["parts"][0]["path"])
    collect(superseded(tmp_path, "t", keep=0, hours=0))

    assert not earlier.path.exists()
    assert grown.stat().st_size > 0


def test_what_was_left_beside_records_is_found_when_it_is_old(tmp_path: Path) -> None:
    """And nothing that has a name of its own, nor what a writer has in hand now."""
    old, new, named = (
        tmp_path / "t" / name for name in (".tmp-old", ".tmp-new", "latest.json")
    )
    named.parent.mkdir()
    for path in (old, new, named):
        path.write_bytes(b"12345")
    for path in (old, named):
        os.utime(path, (0, 0))

    found = list(stale_temporaries(tmp_path))

    assert [(each.path, each.bytes) for each in found] == [(old, 5)]
    assert collect(iter(found)) == (1, 5)
    assert sorted(named.parent.iterdir()) == [new, named]
