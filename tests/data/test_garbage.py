import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from data.bucket import S3Path
from data.features import list_publications, open_features
from data.garbage import (
    collect,
    stale_staging,
    stale_temporaries,
    superseded,
    unfinished,
)
from data.publication import Staging
from data.working_copy import push, working_copy
from tests.data.published import SOME, published
from tests.data.stores import object_store

HOME = "s3://bucket/home"


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


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working copy of a home in a bucket."""
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / "cache"))
    with object_store("bucket"):
        yield working_copy(HOME)


def test_parts_in_a_bucket_whose_manifest_never_came_are_cleared_away(copy: Path) -> None:
    whole = published(copy, SOME, publication="whole", point=True)
    push(whole.path)
    record = S3Path.at(HOME) / "datasets" / "t" / ".index" / "a.json"
    record.put_once(b"{}")
    left = S3Path.at(HOME) / "features" / "t" / "model_version=v1" / "publication=left"
    (left / "contract.json").put_once(b"{}")
    (left / "data" / "part-00000.parquet").put_once(b"1234")

    assert list(unfinished(S3Path.at(HOME))) == []  # somebody may be at it
    found = list(unfinished(S3Path.at(HOME), hours=-1))
    assert [(each.path, each.bytes) for each in found] == [(left, 6)]
    assert collect(iter(found)) == (1, 6)
    assert left.objects() == []
    assert record.exists()
    assert open_features("t", home=HOME, verify=True).rows == 4


def test_what_a_data_set_is_called_clears_nothing_away(copy: Path) -> None:
    """The pointer of a data set "data" lies in a folder that is called as those of parts are."""
    home = S3Path.at(HOME)
    for name in ("features/data/latest.json", "datasets/data/.index/a.json", "datasets/data/x"):
        (home / name).put_once(b"{}")
    published(copy, SOME, point=True)
    push(copy / "features" / "t" / "model_version=v1" / "publication=one")

    assert list(unfinished(home, hours=-1)) == []


def test_superseded_publications_in_a_bucket_go_on_request(copy: Path) -> None:
    for publication in "abc":
        made = published(copy, SOME, publication=publication, point=publication == "c")
        push(made.path)

    assert list(superseded(HOME, "t", keep=0)) == []  # their readers have a day
    collect(superseded(HOME, "t", keep=0, hours=-1))
    assert [found.publication for found in list_publications(HOME, "t")] == ["c"]
    assert open_features("t", home=HOME, verify=True).rows == 4
    assert [place.name for place in S3Path.at(HOME).glob("features/t/*/*/manifest.json")] == [
        "manifest.json"
    ]
