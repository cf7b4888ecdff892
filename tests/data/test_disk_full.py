"""RELIABILITY 2a, disk full: a clear error, what was there stays, nothing is left, and go on."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import data.snapshot
from data.packing import pack
from data.preprocessing import fit_preprocessor
from data.snapshot import ingest, open_snapshot

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


def test_a_full_disk_in_ingest(tmp_path: Path) -> None:
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


def test_a_full_disk_in_packing(tmp_path: Path) -> None:
    snapshot = ingest(table(4000), name="t", root=tmp_path)
    preprocessor = fit_preprocessor(snapshot)

    def packed() -> object:
        return pack(snapshot, preprocessor, root=tmp_path / "packed", seed=0)

    assert "File too large" in message_of(packed, 8000)
    assert left_over(tmp_path) == []
    assert pack(snapshot, preprocessor, root=tmp_path / "packed", seed=0).rows > 3000
