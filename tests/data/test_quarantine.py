"""RELIABILITY 2b, hostile files: an error and no crash, whatever the bytes are."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import data.quarantine
from data.contract import SpecError
from data.files import read_through
from data.formats import SourceError
from data.quarantine import VARIABLE, look
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
            look(read_through, path, path.suffix)
        except SourceError as error:
            complaints.append(str(error))

    assert len(complaints) > 0.2 * MUTATIONS
    assert all(str(path) in complaint for complaint in complaints)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


# What a child is asked to do with a file, in place of reading it.


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def sleep(path: Path) -> None:
    time.sleep(600)


def take_all_memory(path: Path) -> None:
    bytearray(data.quarantine.MEMORY_BYTES)


def tell(path: Path) -> list[str]:
    return list(os.environ.values())


def write(path: Path) -> int:
    return path.write_text("changed")


def refuse(path: Path) -> None:
    raise SpecError("no such column")


def test_a_file_that_crashes_its_reader_is_refused(parquet: Path, new_child: None) -> None:
    for _ in range(2):  # the next file gets a new child
        with pytest.raises(SourceError) as caught:
            look(crash, parquet)
        assert str(caught.value) == (
            f"{parquet} ends its reader (exit status {-signal.SIGSEGV}); "
            f"it is damaged or hostile: write it again"
        )


def test_a_file_that_takes_for_ever_is_refused(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 0.3)
    started = time.perf_counter()

    with pytest.raises(SourceError, match="is not read within 0 s; write it again"):
        look(sleep, parquet)
    assert time.perf_counter() - started < 30


def test_a_file_that_needs_all_memory_is_refused(parquet: Path) -> None:
    with pytest.raises(SourceError, match=r"needs more than 4 GiB to be read"):
        look(take_all_memory, parquet)


def test_the_child_knows_no_secrets(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")

    assert "canary" not in look(tell, parquet)


def test_the_child_writes_where_it_was_asked_to(parquet: Path) -> None:
    with pytest.raises(SourceError, match="File too large"):
        look(write, parquet)
    assert look(write, parquet, room_bytes=100) == len("changed")
    with pytest.raises(SourceError, match="File too large"):
        look(write, parquet)


def test_what_is_wrong_with_the_spec_is_no_fault_of_the_file(parquet: Path) -> None:
    with pytest.raises(SpecError, match="no such column"):
        look(refuse, parquet)


def test_a_relative_path_is_of_the_folder_that_we_are_in(
    parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child was started in another."""
    look(tell, parquet)
    monkeypatch.chdir(parquet.parent)

    with pytest.raises(SourceError, match=r"^t\.parquet cannot be read"):
        look(write, Path("t.parquet"))


def test_one_child_reads_all_files(parquet: Path, new_child: None) -> None:
    look(tell, parquet)
    first = data.quarantine._CHILD._processes[os.getpid()].pid
    look(tell, parquet)

    assert data.quarantine._CHILD._processes[os.getpid()].pid == first


def test_those_who_trust_their_files_do_without(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, new_child: None
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    open_source(parquet).schema  # noqa: B018

    assert data.quarantine._CHILD._processes == {}


def test_an_array_is_mapped_without_a_child(tmp_path: Path, new_child: None) -> None:
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    open_source(tmp_path / "t.npy").schema  # noqa: B018

    assert data.quarantine._CHILD._processes == {}
