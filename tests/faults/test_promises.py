"""The ten promises of RELIABILITY, each in its shortest form; the other files try them at length."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from data.checking import ContractError
from data.features import NotPublishedError, open_features
from data.publication import FormatError, Staging, read_manifest, verify_parts
from data.snapshot import Snapshot, ingest
from flows import tracking
from flows.row_encoder import EncodedPart, RowEncoder
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.crashes import begun, die_before, in_child, killed, wait
from tests.faults.effort import whole_or
from tests.faults.small import PART_ROWS, ROWS, contents, spec_of, table, trained, written
from tests.faults.test_killed import publish
from tests.flows.test_encode import encoded, encoder_of
from vae_engine.artifact import ArtifactError, load_model


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def snapshot(home: Home) -> Snapshot:
    return ingest(table(), name="t", root=home.datasets, key="id")


def test_i1_a_reader_never_sees_half_a_publication(tmp_path: Path, cases: Cases) -> None:
    """A plain glob reader looks as often as it can while publications come and go."""
    for number in range(whole_or(40, 6)):
        root = tmp_path / str(number)
        writer = begun(partial(publish, root))
        seen = 0
        while not seen:
            for folder in root.glob("t/*/publication=*/data"):
                seen = len(pd.read_parquet(folder))
        assert wait(writer) == 0
        assert seen == ROWS
        cases("I1 a reader sees all or nothing")


def test_i2_killed_and_run_again_publishes_the_same_bytes(tmp_path: Path, cases: Cases) -> None:
    expected = contents(publish(tmp_path / "whole"))
    root = tmp_path / "killed"

    def mortal(call: int) -> None:
        die_before(call)
        publish(root)

    for call in range(1, 12):  # again and again, a little further each time
        status = in_child(partial(mortal, 3 * call))
        assert status == 0 or killed(status)
        cases("I2 killed and run again: the same bytes")
    assert contents(publish(root)) == expected


def test_i3_a_training_is_a_function_of_its_settings(tmp_path: Path) -> None:
    """Straight, and straight again elsewhere; `test_training_killed` kills it in between."""
    spec = spec_of(written(tmp_path))
    runs = [trained(spec, Home(tmp_path / name)) for name in "ab"]

    assert contents(runs[0].model) == contents(runs[1].model)


def test_i4_the_same_job_twice_publishes_once(home: Home, snapshot: Snapshot) -> None:
    encoder = encoder_of(home.root, snapshot)
    children = [begun(partial(encoded, home, snapshot, encoder)) for _ in range(2)]

    assert [wait(child) for child in children] == [0, 0]
    assert len(list(home.features.glob("t/*/publication=*"))) == 1


def test_i5_published_files_never_change(home: Home, snapshot: Snapshot) -> None:
    """A correction is another publication; the first one's files are what and where they were."""
    first = Path(encoded(home, snapshot, encoder_of(home.root, snapshot))["path"])
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}, contents(first)
    corrected = table().to_pandas()
    corrected.loc[5, "x0"] = 0.5
    other = ingest(pa.Table.from_pandas(corrected), name="t", root=home.datasets, key="id")
    encoded(home, other, encoder_of(home.root, other, version=2))

    assert (
        {path: path.stat().st_mtime_ns for path in first.rglob("*")},
        contents(first),
    ) == before


def drop_a_row(part: EncodedPart) -> EncodedPart:
    return part._replace(table=part.table.slice(1))


def swap_rows(part: EncodedPart) -> EncodedPart:
    order = [1, 0, *range(2, len(part.table))]
    return part._replace(table=part.table.take(order))


def say_a_row_twice(part: EncodedPart) -> EncodedPart:
    order = [0, 0, *range(2, len(part.table))]
    return part._replace(table=part.table.take(order))


@pytest.mark.parametrize("change", [drop_a_row, swap_rows, say_a_row_twice])
def test_i6_each_row_once_in_its_order_or_nothing(
    home: Home,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[EncodedPart], EncodedPart],
) -> None:
    """Whatever an encoder did to the rows, the keys are compared before anything has a name."""
    parts = RowEncoder.parts

    def changed(self: RowEncoder, *args: Any, **kwargs: Any) -> Iterator[EncodedPart]:
        for part in parts(self, *args, **kwargs):
            yield change(part) if part.number == 1 else part

    monkeypatch.setattr(RowEncoder, "parts", changed)

    with pytest.raises(FormatError, match=r"part-00001.*nothing is published"):
        encoded(home, snapshot, encoder_of(home.root, snapshot))
    assert not list(home.features.glob("t/*/publication=*"))


def test_i6_columns_are_told_by_name(home: Home, snapshot: Snapshot) -> None:
    """A table whose columns come in another order is the same snapshot."""
    rows = table()
    order = ["x2", "x0", "id", "x3", "x1"]

    again = ingest(rows.select(order), name="t", root=home.datasets, key="id")

    assert again.table().equals(snapshot.table())


def test_i7_no_infinity_enters_and_none_leaves(
    home: Home, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = table().to_pandas()
    bad.loc[3, "x1"] = np.inf
    with pytest.raises(ContractError, match="x1"):
        ingest(pa.Table.from_pandas(bad), name="t", root=home.datasets, key="id")

    encoder = encoder_of(home.root, snapshot)
    broken = load_model(Path(encoder["folder"]))
    with torch.no_grad():
        broken.head.bias.fill_(torch.inf)
    monkeypatch.setattr("flows.part_encoder.load_model", lambda *_, **__: broken)
    with pytest.raises(FloatingPointError, match="not finite"):
        encoded(home, snapshot, encoder)
    assert not list(home.features.glob("t/*/publication=*"))


def test_i8_a_changed_byte_is_refused_before_it_is_parsed(
    home: Home, snapshot: Snapshot, tmp_path: Path, cases: Cases
) -> None:
    encoder = encoder_of(home.root, snapshot)
    for path in sorted(Path(encoder["folder"]).iterdir()):
        copy = tmp_path / path.name
        shutil.copytree(encoder["folder"], copy)
        whole = path.read_bytes()
        (copy / path.name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        cases("I8 a changed byte is refused")
        with pytest.raises(
            ArtifactError, match=r"was changed|is not the one with digest|no sum"
        ):
            load_model(copy, digest=encoder["digest"])


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc", ".hidden", "a\\b", ""])
def test_i9_no_name_leaves_its_root(home: Home, name: str) -> None:
    for attempt in (
        lambda: ingest(table(), name=name, root=home.datasets),
        lambda: Staging(home.features, name),
        lambda: open_features("t", home=home.root, publication=name),
    ):
        with pytest.raises((ValueError, NotPublishedError), match="cannot be a name"):
            attempt()
    assert not home.root.exists() or not list(home.root.rglob("*.parquet"))


def test_i10_no_secret_in_an_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "canary-of-the-promise"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{secret}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(tracking.TrackingError) as caught:
        tracking.versions(home, "t")
    assert secret not in str(caught.value)
    assert caught.value.__suppress_context__  # nor in a traceback


def test_verifying_reads_every_byte(home: Home, snapshot: Snapshot) -> None:
    """What the table above rests on: the manifest's digests are of the files as they lie there."""
    path = Path(encoded(home, snapshot, encoder_of(home.root, snapshot))["path"])
    manifest = read_manifest(path, format="latent-features", version=1)

    verify_parts(path, manifest)
    assert sum(part["rows"] for part in manifest["parts"]) == manifest["rows"] == ROWS
