"""RELIABILITY 2a, disk full: a clear error, what was there stays, nothing is left, and go on."""

import os
import resource
import signal
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import data.snapshot
import flows.train
from data.features import list_publications, open_features
from data.packing import pack
from data.preprocessing import fit_preprocessor
from data.snapshot import ingest, open_snapshot
from flows.ingest import ingest_dataset
from flows.runs import read_metrics
from flows.settings import Home
from flows.train import train_model
from tests.faults.conftest import Cases
from tests.faults.small import contents, spec_of, trained, written
from tests.flows.test_encode import encoded, encoder_of

ENOUGH_FOR_A_PART = 6000  # bytes a file may have: the first part is smaller, the second larger


def table(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    x = np.where(np.arange(4000) < 1000, np.arange(4000) % 7, random.normal(size=4000))
    return pa.table({"id": np.arange(rows), "x": x[:rows]})


def message_of(act: Callable[[], object], limit_bytes: int) -> str:
    """What `act` says in a child whose files can have only so many bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        try:
            act()
        except OSError as error:
            os.write(writer, str(error).encode())
        except BaseException:  # noqa: BLE001  # the parent asserts on what was said
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read().decode()


def left_over(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.snapshot, "PART_ROWS", 1000)


def test_disk_full_in_ingest(tmp_path: Path) -> None:
    before = ingest(table(900), name="t", root=tmp_path)
    said = message_of(lambda: ingest(table(4000), name="t", root=tmp_path), ENOUGH_FOR_A_PART)

    assert said == (
        f"[Errno 27] File too large; free some space and run again: what is finished is kept: "
        f"'{tmp_path}/.staging/.tmp'"
    )
    assert left_over(tmp_path) == []
    assert [path.name for path in tmp_path.rglob(".staging/*/data/*")] == ["part-00000.parquet"]
    assert open_snapshot(before.path).table().num_rows == 900
    after = ingest(table(4000), name="t", root=tmp_path)
    assert after.table()["x"].equals(table(4000)["x"])


def test_disk_full_in_packing(tmp_path: Path) -> None:
    snapshot = ingest(table(4000), name="t", root=tmp_path)
    preprocessor = fit_preprocessor(snapshot)

    def packed() -> object:
        return pack(snapshot, preprocessor, root=tmp_path / "packed", seed=0)

    assert "File too large" in message_of(packed, 8000)
    assert left_over(tmp_path) == []
    assert pack(snapshot, preprocessor, root=tmp_path / "packed", seed=0).rows > 3000


def test_disk_full_on_checkpoint_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """Training stops and says so; the last checkpoint is whole, and training goes on from it."""
    monkeypatch.setattr(flows.train, "MIN_REPORT_STEPS", 4)
    spec = spec_of(written(tmp_path), "model.hidden=[16]")
    straight = trained(spec, Home(tmp_path / "straight"))
    plan, tensors, log = (
        max(path.stat().st_size for path in straight.path.rglob(name))
        for name in ("plan.json", "tensors.safetensors", "metrics.jsonl")
    )
    assert plan < tensors < log
    for limit_bytes in (tensors - 1, (tensors + log) // 2):
        home = Home(tmp_path / str(limit_bytes))
        snapshot = str(ingest_dataset(spec, home).value["path"])

        said = message_of(partial(train_model, spec, home, snapshot), limit_bytes)

        cases("2a disk full on checkpoint/log")
        assert "free some space and run again: what is finished is kept" in said
        assert not list(home.runs.rglob(".step-*"))
        assert not list(home.runs.glob("*/trained.json"))
        assert contents(trained(spec, home).model) == contents(straight.model)
        assert len(read_metrics(straight.metrics)) == len(
            read_metrics(trained(spec, home).metrics)
        )


def test_disk_full_in_encode(tmp_path: Path) -> None:
    """What readers have stays; finished parts are kept, and the rest follows when there is room."""
    home = Home(tmp_path / "home")
    before = ingest(table(900), name="t", root=home.datasets, key="id")
    encoder = encoder_of(home.root, before)
    first = Path(encoded(home, before, encoder)["path"])
    grown = ingest(table(4000), name="t", root=home.datasets, key="id")

    said = message_of(lambda: encoded(home, grown, encoder), 15_000)

    assert "free some space and run again: what is finished is kept" in said
    assert left_over(home.root) == []
    (found,) = list_publications(home.root)
    assert found.path == first
    value = encoded(home, grown, encoder)
    assert open_features("t", home=home.root, verify=True).rows == value["rows"] == 4000
