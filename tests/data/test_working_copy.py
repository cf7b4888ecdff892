from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from data.bucket import S3Path
from data.features import latest_of, list_publications, open_features, write_latest
from data.publication import FormatError, Staging
from data.snapshot import ingest, open_snapshot
from data.working_copy import (
    bring,
    bring_published,
    copy_of,
    place_of,
    present,
    push,
    refresh,
    settle,
    settle_new,
    share,
    working_copy,
)
from tests.data.stores import object_store

ROWS = 300
Machine = Callable[[str], Path]  # the working copy of a machine, by its name


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.fixture
def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Machine:
    def of(name: str) -> Path:
        monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / name))
        return working_copy(f"s3://bucket/{request.node.name}")

    return of


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", 100)


def table() -> pa.Table:
    return pa.table({"id": np.arange(ROWS), "x": np.arange(ROWS) / 7})


def published(root: Path, number: float, version: int = 1) -> Path:
    """A publication of features that another processor may round otherwise."""
    features = root / "features"
    staging = Staging(features, "abc")
    cells = {
        "id": np.arange(4),
        "split": ["test"] * 4,
        "z_mean_000": np.full(4, number, np.float32),
    }
    parts = [staging.write_part(k, pa.table(cells), {}) for k in range(2)]
    header = {
        "format": "latent-features",
        "format_version": 1,
        "latents": 1,
        "machine": number,
    }
    final = features / "t" / f"model_version=v{version}" / "publication=abc"
    return staging.commit(final, parts, header)


def test_a_snapshot_is_found_by_another_machine_and_its_rows_come_when_they_are_read(
    machine: Machine,
) -> None:
    made = ingest(table(), name="t", root=machine("a") / "datasets")
    push(made.path)

    root = machine("b")
    bring_published(root / "datasets" / "t")
    found = open_snapshot(root / "datasets" / "t" / made.fingerprint)
    assert list((found.path / "data").iterdir()) == []
    assert len(found.part_table(found.parts[1])) == 100
    assert [path.name for path in (found.path / "data").iterdir()] == ["part-00001.parquet"]
    assert found.table().equals(made.table())
    assert (found.contract, found.profile) == (made.contract, made.profile)
    found.verify()


def test_a_publication_is_there_for_readers_of_the_bucket(machine: Machine) -> None:
    root = machine("a")
    push(published(root, 0.5))
    home = str(place_of(root))
    assert [found.latest for found in list_publications(home)] == [False]
    write_latest(root / "features", "t", version=1, publication="abc", champion=True)

    features = open_features("t", home=home, verify=True)
    assert str(features.path) == f"{home}/features/t/model_version=v1/publication=abc"
    assert [found.latest for found in list_publications(home, "t")] == [True]
    assert features.to_numpy().tolist() == [[0.5]] * 8
    assert features.to_pandas(["id"], split="test").shape == (8, 1)
    assert features.to_pandas(["id"], split="train").empty
    folder = f"{features.path}/data"
    assert len(pd.read_parquet(folder)) == len(pl.read_parquet(f"{folder}/*.parquet")) == 8


def test_a_publication_that_another_machine_rounded_otherwise_is_adopted(
    machine: Machine,
) -> None:
    """RELIABILITY 2a, S3: no rename. The first part is theirs, the second was never written."""
    theirs, ours = published(machine("a"), 1.0), published(machine("b"), 2.0)
    whole = place_of(theirs)
    assert isinstance(whole, S3Path)
    push(theirs)
    for name in ("manifest.json", "data/part-00001.parquet"):
        (whole / name).unlink()

    push(ours)
    manifest = (whole / "manifest.json").read_bytes()
    home = str(place_of(machine("b")))
    features = open_features("t", home=home, publication="abc", verify=True)
    assert features.to_numpy().ravel().tolist() == [1.0] * 4 + [2.0] * 4
    assert (ours / "manifest.json").read_bytes() == manifest
    assert list((ours / "data").iterdir()) == []
    push(theirs)
    assert (theirs / "manifest.json").read_bytes() == manifest


def test_the_first_record_holds(machine: Machine) -> None:
    ours, theirs = machine("a") / "runs/r/gate.json", machine("b") / "runs/r/gate.json"
    for record, content in ((ours, b"1"), (theirs, b"2")):
        record.parent.mkdir(parents=True)
        record.write_bytes(content)
        settle(record)
        settle(record)
    assert theirs.read_bytes() == b"1"

    for name in ("x.json", "y.json"):
        (theirs.parent / name).write_bytes(b"3")
    share(theirs.parent / "x.json")
    settle_new(theirs.parent, "*.json")
    bring(ours.parent, "*.json")
    assert sorted(path.name for path in ours.parent.iterdir()) == [
        "gate.json",
        "x.json",
        "y.json",
    ]
    share(theirs)
    (theirs.parent / "x.json").write_bytes(b"4")
    share(theirs.parent / "x.json")
    refresh(ours.parent / "x.json")
    refresh(ours.parent / "none.json")
    assert (ours.parent / "x.json").read_bytes() == b"4"


def test_pointers_are_changed_in_the_bucket(machine: Machine) -> None:
    for version, name in enumerate("ab", 1):
        root = machine(name)
        write_latest(
            root / "features", "t", version=version, publication=f"p{version}", champion=True
        )
    latest = latest_of(machine("c") / "features", "t")
    assert latest["versions"] == {"1": "p1", "2": "p2"}
    assert latest["champion"] == {"model_version": 2, "publication": "p2"}


def test_a_part_that_was_changed_in_the_bucket_is_refused(machine: Machine) -> None:
    made = ingest(table(), name="t", root=machine("a") / "datasets")
    push(made.path)
    place = place_of(made.path)
    assert isinstance(place, S3Path)
    (place / "data/part-00000.parquet").replace(b"else")
    (place / "data/part-00001.parquet").unlink()

    root = machine("b")
    bring_published(root / "datasets")
    found = open_snapshot(root / "datasets" / "t" / made.fingerprint)
    with pytest.raises(FormatError, match="is not the file that was published"):
        found.part_table(found.parts[0])
    with pytest.raises(FormatError, match=r"part-00001.parquet is missing; publish it again"):
        found.part_table(found.parts[1])


def test_what_is_in_the_way_is_not_adopted(machine: Machine) -> None:
    folder = published(machine("a"), 1.0)
    place = place_of(folder)
    assert isinstance(place, S3Path)
    (place / "data/part-00001.parquet").put_once(b"foreign")

    with pytest.raises(FormatError, match=r"part-00001.parquet is in the way, and no part of"):
        push(folder)
    assert not (place / "manifest.json").exists()


def test_an_object_cannot_leave_the_working_copy(machine: Machine) -> None:
    """RELIABILITY I9."""
    root = machine("a")
    (S3Path.at(str(place_of(root))) / "runs" / ".." / "x.json").put_once(b"")

    with pytest.raises(
        FormatError, match=r"runs/../x.json would be written outside its folder"
    ):
        bring(root / "runs", "*/*.json")


def test_a_home_on_a_disk_is_no_working_copy(tmp_path: Path) -> None:
    made = ingest(table(), name="t", root=tmp_path)
    before = sorted(tmp_path.rglob("*"))

    for act in (push, bring_published, settle, share, refresh, bring, copy_of):
        assert act(made.path) is None
    assert present(tmp_path / "none", "") == place_of(tmp_path / "none") == tmp_path / "none"
    assert sorted(tmp_path.rglob("*")) == before


def test_each_store_has_a_working_copy_of_its_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("a")
    assert machine("a") == one
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert machine("a") != one
