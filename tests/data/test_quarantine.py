"""RELIABILITY 2b, hostile files: an error and no crash, whatever the bytes are."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import data.quarantine
from data.formats import SourceError
from data.quarantine import VARIABLE, vet
from data.sources import open_source

TABLE = pa.table(
    {
        "n": [1, None, 3] * 20,
        "s": ["a", "bb", None] * 20,
        "l": [[1.5], [], None] * 20,
        "d": pa.array(["x", "y", "x"] * 20).dictionary_encode(),
    }
)
WRITERS: dict[str, Callable[[Path], None]] = {
    "t.parquet": lambda path: pq.write_table(TABLE, path),
    "t.arrow": lambda path: pa.feather.write_feather(TABLE, path, compression="uncompressed"),
}
MUTATIONS = 250  # of each of two formats


@pytest.fixture
def new_child() -> Iterator[None]:
    """A child that starts in this test, with what the test changes."""
    data.quarantine._CHILD.stop()
    yield
    data.quarantine._CHILD.stop()


@pytest.mark.parametrize("name", WRITERS)
def test_mutated_files_are_read_or_refused_and_the_reader_lives(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 20)
    path = tmp_path / name
    WRITERS[name](path)
    whole, draws = path.read_bytes(), random.Random(0)
    complaints = []
    for _ in range(MUTATIONS):
        mutated = bytearray(whole)
        for _ in range(draws.choice([1, 1, 2, 8])):
            mutated[draws.randrange(len(mutated))] = draws.randrange(256)
        if draws.random() < 0.1:
            del mutated[draws.randrange(len(mutated)) :]
        path.write_bytes(mutated)
        try:
            vet(path, path.suffix)
        except SourceError as error:
            complaints.append(str(error))

    assert len(complaints) > 0.2 * MUTATIONS
    assert all(str(path) in complaint for complaint in complaints)


def reader_that(body: str) -> str:
    """A child that does `body` with the file it is given."""
    return (
        "import data.quarantine as q, os, time\n"
        f"def read(path):\n    {body}\n"
        "q.READERS['.parquet'] = read\n"
        "q.main()\n"
    )


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def start_instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    original = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        assert command == [sys.executable, "-m", "data.quarantine"]
        return original([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)


def test_a_file_that_crashes_its_reader_is_refused(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    start_instead(monkeypatch, reader_that("os.kill(os.getpid(), 11)"))

    for _ in range(2):  # the next file gets a new child
        with pytest.raises(SourceError) as caught:
            vet(parquet, ".parquet")
        assert str(caught.value) == (
            f"{parquet} ends its reader (exit status {-signal.SIGSEGV}); "
            f"it is damaged or hostile: write it again"
        )


def test_a_file_that_takes_for_ever_is_refused(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 0.3)
    start_instead(monkeypatch, reader_that("time.sleep(600)"))
    started = time.perf_counter()

    with pytest.raises(SourceError, match="is not read within 0 s; write it again"):
        vet(parquet, ".parquet")
    assert time.perf_counter() - started < 30


def test_a_file_that_needs_all_memory_is_refused(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    start_instead(monkeypatch, reader_that("bytearray(q.MEMORY_BYTES)"))

    with pytest.raises(SourceError, match=r"needs more than 4 GiB to be read"):
        vet(parquet, ".parquet")


def test_the_child_knows_no_secrets(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    start_instead(monkeypatch, reader_that("raise ValueError(' '.join(os.environ.values()))"))

    with pytest.raises(SourceError) as caught:
        vet(parquet, ".parquet")
    assert "canary" not in str(caught.value)


def test_one_child_reads_all_files(parquet: Path, new_child: None) -> None:
    vet(parquet, ".parquet")
    first = data.quarantine._CHILD._processes[os.getpid()].pid
    vet(parquet, ".parquet")

    assert data.quarantine._CHILD._processes[os.getpid()].pid == first


def test_those_who_trust_their_files_do_without(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    open_source(parquet).schema  # noqa: B018

    assert data.quarantine._CHILD._processes == {}


def test_text_is_read_without_a_child(tmp_path: Path, new_child: None) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    open_source(tmp_path / "t.csv").schema  # noqa: B018

    assert data.quarantine._CHILD._processes == {}
