"""RELIABILITY 2a and 2b of files that are read where they are: the same rows, or an error."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import data.blocks
import data.quarantine
import data.streamed
from data.bucket import S3Path
from data.child import ask, send
from data.formats import SourceError
from data.objects import SeenObject, seen_object
from data.quarantine import VARIABLE, stream
from data.snapshot import ingest
from data.sources import Source, open_source
from tests.data.sites import Site, cut_off, served
from tests.data.stores import object_store
from tests.data.test_snapshot import published

RANDOM = np.random.default_rng(0)
ROWS = 5_000
BUCKET = S3Path("bucket")


def table(first: int = 0, rows: int = ROWS) -> pa.Table:
    lists = pa.array([None if k % 50 == 3 else [k, k + 1] for k in range(rows)])
    embedding = pa.array(RANDOM.normal(size=rows * 8).astype(np.float32))
    return pa.table(
        {
            "id": np.arange(first, first + rows),
            "x": RANDOM.normal(size=rows),
            "city": pa.array([f"c{k % 5}" for k in range(rows)]).dictionary_encode(),
            "note": pa.array([f"note {k}" for k in range(rows)], pa.large_string()),
            "lists": lists,
            "embedding": pa.FixedSizeListArray.from_arrays(embedding, 8),
        }
    )


def as_parquet(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, row_group_size=700, data_page_size=1 << 12)


def as_feather(rows: pa.Table, path: Path) -> None:
    pa.feather.write_feather(rows, path, chunksize=600)


def as_stream(rows: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=900)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "t.parquet": as_parquet,
    "t.feather": as_feather,
    "t.arrow": as_stream,
}


@pytest.fixture(autouse=True)
def no_place_for_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


def uploaded(path: Path, name: str) -> str:
    (BUCKET / name).replace(path)
    return f"s3://bucket/{name}"


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_a_snapshot_is_the_same_bytes_from_here_and_from_a_bucket(
    tmp_path: Path, name: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv(VARIABLE, "off")
    WRITERS[name](table(), tmp_path / name)
    there = uploaded(tmp_path / name, f"same/{name}")

    here = ingest(tmp_path / name, name="t", root=tmp_path / "here")
    far = ingest(there, name="t", root=tmp_path / "far")

    assert far.rows == ROWS
    assert published(far.path) == published(here.path)


def test_so_is_that_of_a_partitioned_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number, year in enumerate(("2023", "2024")):
        for part in "ab":
            path = folder / f"year={year}" / f"{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            as_parquet(table(number * 1000 + ord(part), 100), path)
            uploaded(path, f"folder/year={year}/{part}.parquet")
    (BUCKET / "folder/_SUCCESS").replace(b"")
    (BUCKET / "folder/about.json").replace(b"{}")
    (BUCKET / "folder/year=2024/.hidden.parquet").replace(b"")
    (BUCKET / "folder/notes.txt").replace(b"no table")

    here = ingest(folder, name="t", root=tmp_path / "here")
    far = ingest("s3://bucket/folder", name="t", root=tmp_path / "far")

    assert far.rows == 400
    assert published(far.path) == published(here.path)


def test_a_snapshot_is_found_again_without_a_row_being_read(tmp_path: Path, store: str) -> None:
    as_parquet(table(), tmp_path / "t.parquet")
    there = uploaded(tmp_path / "t.parquet", "again/t.parquet")
    ingest(there, name="t", root=tmp_path / "root")

    assert ingest(there, name="t", root=tmp_path / "root").reused


def test_a_pass_over_the_rows_reads_the_object_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_parquet(table(rows=40_000), tmp_path / "t.parquet")
    size = (tmp_path / "t.parquet").stat().st_size
    source = open_source(uploaded(tmp_path / "t.parquet", "once/t.parquet"))
    asked: list[int] = []
    read = SeenObject.read

    def counted(seen: SeenObject, start: int, length: int) -> bytes:
        asked.append(length)
        return read(seen, start, length)

    monkeypatch.setattr(SeenObject, "read", counted)
    monkeypatch.setattr(data.blocks, "BLOCK_BYTES", 1 << 16)
    source.schema  # noqa: B018
    asked.clear()

    assert sum(map(len, source.batches())) == 40_000
    assert sum(asked) == size


def test_the_next_file_is_asked_for_while_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        as_parquet(table(ord(name), 100), tmp_path / "t.parquet")
        uploaded(tmp_path / "t.parquet", f"next/{name}.parquet")
    source, asked = open_source("s3://bucket/next"), set[str]()
    source.schema  # noqa: B018
    read = SeenObject.read

    def noted(seen: SeenObject, start: int, length: int) -> bytes:
        asked.add(seen.place.name)
        return read(seen, start, length)

    monkeypatch.setattr(SeenObject, "read", noted)
    first = source.readers[0].read()
    assert len(next(first)) == 100
    while len(asked) < 2:
        time.sleep(0.01)

    assert asked == {"a.parquet", "b.parquet"}
    assert list(first) == []
    assert len(rows_of(source)) == 300


# What changes, and what breaks.


def test_an_object_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.blocks, "BLOCK_BYTES", 1 << 16)
    as_parquet(table(rows=40_000), tmp_path / "t.parquet")
    there = uploaded(tmp_path / "t.parquet", "moving/t.parquet")
    batches = open_source(there).batches(100)
    assert len(next(batches)) == 100
    as_parquet(table(1, rows=40_000), tmp_path / "t.parquet")
    uploaded(tmp_path / "t.parquet", "moving/t.parquet")

    with pytest.raises(SourceError) as caught:
        list(batches)
    assert str(caught.value) == f"{there} was changed while it was read; run again"


def test_an_object_that_goes_or_changes_before_it_is_read_is_refused(tmp_path: Path) -> None:
    as_parquet(table(), tmp_path / "t.parquet")
    there = uploaded(tmp_path / "t.parquet", "going/t.parquet")
    source = open_source(there)
    (BUCKET / "going/t.parquet").unlink()

    with pytest.raises(SourceError, match=r"going/t.parquet was changed while it was read"):
        rows_of(source)


def test_a_broken_answer_is_asked_for_again(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = table(rows=60_000)
    as_parquet(expected, tmp_path / "t.parquet")
    there = uploaded(tmp_path / "t.parquet", "broken/t.parquet")
    with cut_off(store, after_bytes=1_000_000) as (address, cuts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = [row["id"] for row in rows_of(open_source(there))]

    assert len(cuts) == 1
    assert found == expected["id"].to_pylist()


def test_a_store_that_names_no_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(files={"/bucket/t.parquet": b"rows"}, says={"X-Store": "plain"})
    with served(site) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(SourceError, match=r"s3://bucket/t.parquet has no ETag"):
            seen_object(BUCKET / "t.parquet")


def test_no_key_is_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_parquet(table(), tmp_path / "t.parquet")
    source = open_source(uploaded(tmp_path / "t.parquet", "secret/t.parquet"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("data.objects.WAITS_S", ())

    with pytest.raises(
        SourceError, match=r"s3://bucket/secret/t.parquet broke off 1 times"
    ) as c:
        rows_of(source)
    assert "canary" not in str(c.value)


# RELIABILITY 2b, hostile files: this process parses no byte of them.


def test_a_file_is_refused_by_its_address(tmp_path: Path) -> None:
    (BUCKET / "bad/empty.parquet").replace(b"")
    (BUCKET / "bad/no.parquet").replace(b"PAR1 no more")
    as_parquet(table(), tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-12])
    cut = uploaded(tmp_path / "t.parquet", "bad/cut.parquet")

    with pytest.raises(SourceError, match=r"^s3://bucket/bad/empty.parquet is empty \(0 bytes"):
        open_source("s3://bucket/bad/empty.parquet").schema  # noqa: B018
    for there in ("s3://bucket/bad/no.parquet", cut):
        with pytest.raises(SourceError, match=rf"^{there} cannot be read: .*write it again"):
            open_source(there).schema  # noqa: B018


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_mutated_objects_are_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](table(rows=60), path)
    whole, draws, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        mutated = bytearray(whole)
        for _ in range(draws.choice([1, 8, 64])):
            mutated[draws.randrange(len(mutated))] = draws.randrange(256)
        (BUCKET / f"mutated/{name}").replace(bytes(mutated))
        try:
            rows_of(open_source(f"s3://bucket/mutated/{name}"))
        except SourceError as error:
            assert str(error).startswith(f"s3://bucket/mutated/{name}")  # noqa: PT017
            refused += 1

    assert refused > 10


@pytest.fixture
def seen(tmp_path: Path) -> SeenObject:
    as_parquet(table(), tmp_path / "t.parquet")
    uploaded(tmp_path / "t.parquet", "seen/t.parquet")
    found = seen_object(BUCKET / "seen/t.parquet")
    assert found is not None
    return found


class Whole:
    """An object whose ranges are asked for as they come."""

    def __init__(self, seen: SeenObject) -> None:
        self.seen, self.size = seen, seen.size

    def pieces(self, start: int, length: int) -> Iterator[memoryview]:
        yield memoryview(self.seen.read(start, length))


# What a child is asked to do, in place of reading.


def crash(place: str, size: int) -> None:
    send(ask(0, 4))
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(place: str, size: int) -> None:
    time.sleep(600)


def tell(place: str, size: int) -> None:
    send("\n".join(os.environ.values()).encode())


def echo(place: str, size: int) -> None:
    step = -(-size // 20)
    for start in range(0, size, step):
        send(ask(start, min(step, size - start)))


def test_a_stream_that_ends_its_reader_is_refused(seen: SeenObject) -> None:
    sent = stream(crash, "s3://place", Whole(seen))

    assert bytes(next(sent)) == b"PAR1"
    with pytest.raises(SourceError, match=r"^s3://place ends its reader \(exit status -11\)"):
        next(sent)


def test_a_reader_that_takes_for_ever_is_ended(
    seen: SeenObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(stream(tell, "s3://place", Whole(seen)))  # a child has started
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 0.3)

    with pytest.raises(SourceError, match="s3://place is not read within 0 s"):
        list(stream(hang, "s3://place", Whole(seen)))


def test_the_time_of_those_who_bring_and_use_does_not_count(
    seen: SeenObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Whole):
        def pieces(self, start: int, length: int) -> Iterator[memoryview]:
            time.sleep(0.03)
            yield from super().pieces(start, length)

    list(stream(tell, "s3://place", Whole(seen)))  # a child has started
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 0.5)
    started, length = time.perf_counter(), 0
    for sent in stream(echo, "s3://place", Slow(seen)):
        length += len(sent)
        time.sleep(0.03)

    assert length == seen.size
    assert time.perf_counter() - started > 1


def test_the_reader_of_a_stream_knows_no_secrets(seen: SeenObject) -> None:
    (sent,) = stream(tell, "s3://place", Whole(seen))

    assert b"canary" not in bytes(sent)


def test_streams_may_be_read_in_turn_and_left_early(tmp_path: Path) -> None:
    as_parquet(table(), tmp_path / "t.parquet")
    there = uploaded(tmp_path / "t.parquet", "turn/t.parquet")
    one, other = open_source(there), open_source(there)
    pairs = zip(one.batches(700), other.batches(700), strict=True)

    assert all(a.equals(b) for a, b in islice(pairs, 3))
    del pairs
    assert len(rows_of(one)) == len(rows_of(other)) == ROWS
    assert len(data.quarantine._STREAMING) == 2
