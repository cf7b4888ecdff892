import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from data.bucket import arrow_store
from data.formats import SourceError
from data.remote import RemoteFile, remote
from data.sources import Source, open_source
from tests.data.sites import cut_off
from tests.data.stores import object_store


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


@pytest.fixture(scope="module")
def bucket() -> Iterator[pyarrow.fs.FileSystem]:
    with object_store("bucket"):
        store = arrow_store()
        for name, value in (("t/year=2023/a", 1), ("t/year=2024/a", 2), ("other/b", 3)):
            with store.open_output_stream(f"bucket/{name}.parquet") as stream:
                pq.write_table(pa.table({"x": [value]}), stream)
        yield store


@pytest.mark.parametrize(
    ("url", "rows"),
    [
        ("s3://bucket/other/b.parquet", [{"x": 3}]),
        ("s3://bucket/t", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
        ("s3://bucket/t/", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
        ("s3://bucket/t/year=2024/*.parquet", [{"x": 2}]),
        ("s3://bucket/t/*/*.parquet", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
    ],
)
def test_objects_and_prefixes_are_sources(
    bucket: pyarrow.fs.FileSystem, url: str, rows: list[dict[str, Any]]
) -> None:
    assert rows_of(open_source(url)) == rows


def test_the_digest_of_an_object_changes_when_it_is_written(
    bucket: pyarrow.fs.FileSystem,
) -> None:
    digests = []
    for value in (1, 1, 2):
        with bucket.open_output_stream("bucket/new/c.csv") as stream:
            stream.write(f"a\n{value}\n".encode())
        digests.append(open_source("s3://bucket/new").digest)

    assert digests[0] == digests[1] != digests[2]


def test_an_object_is_read_on_where_the_connection_broke(
    bucket: pyarrow.fs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2a, interrupted download."""
    rows = [f"{k:09d}" for k in range(300_000)]
    with bucket.open_output_stream("bucket/long/d.csv") as stream:
        stream.write("\n".join(["a", *rows]).encode())
    with cut_off(os.environ["AWS_ENDPOINT_URL"], after_bytes=1_000_000) as (address, cuts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = rows_of(open_source("s3://bucket/long"))

    assert len(cuts) == 1
    assert found == [{"a": int(row)} for row in rows]


def test_an_object_that_changes_while_it_is_read_is_refused(
    bucket: pyarrow.fs.FileSystem,
) -> None:
    def write(text: bytes) -> None:
        with bucket.open_output_stream("bucket/moving/e.csv") as stream:
            stream.write(text)

    write(b"a\n1\n")
    source = remote("s3://bucket/moving")
    write(b"a\n2\n")
    with pytest.raises(SourceError, match=r"e.csv was changed while it was read; run again"):
        source.local()


def test_nothing_in_a_bucket_is_an_error(bucket: pyarrow.fs.FileSystem) -> None:
    with pytest.raises(SourceError, match="s3://bucket/none holds nothing; check bucket"):
        open_source("s3://bucket/none")


def test_an_object_cannot_leave_its_folder(bucket: pyarrow.fs.FileSystem) -> None:
    """RELIABILITY I9."""
    for name in ("../x.csv", "a/../../x.csv", "/x.csv"):
        with pytest.raises(SourceError, match="would be written outside its folder"):
            RemoteFile(name, "tag")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(
        SourceError, match=r"^gs:// is no scheme that we read; known: s3, https"
    ):
        open_source("gs://bucket/t.csv")
