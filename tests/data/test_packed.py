import bz2
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import data.formats
from data.formats import SourceError
from data.packed import bare, codec_of, unpacked
from data.quarantine import VARIABLE as QUARANTINE
from data.sources import open_source

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    ".GZ": gzip.compress,
}
CONTENT = "".join(f"{n},{random.Random(n).random()}\n" for n in range(50_000)).encode()


def packed(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(PACK[path.suffix](content))
    return path


@pytest.mark.parametrize("suffix", PACK)
def test_what_was_packed_comes_out(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path, f"a.csv{suffix}", CONTENT)

    with unpacked(path) as file:
        assert file.read(10) + file.readline() + b"".join(file) == CONTENT
    assert bare(path).name == "a.csv"


def test_what_is_not_packed_is_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)

    assert (codec_of(path), bare(path)) == (None, path)
    with unpacked(path) as file:
        assert file.read() == CONTENT


def test_files_packed_one_behind_the_other_are_one(tmp_path: Path) -> None:
    """As gzip's own tools have it, and those that pack in parallel."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))

    with unpacked(path) as file:
        assert file.read() == b"a\n1\n2\n"


def test_a_bomb_is_refused_before_all_is_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(QUARANTINE, "off")  # the child has limits as they are
    monkeypatch.setattr(data.formats, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(data.formats, "MAX_EXPANSION", 10)
    path = packed(tmp_path, "a.csv.gz", b"a\n" + b"1\n" * (1 << 20))

    with pytest.raises(
        SourceError, match=r"a\.csv\.gz unpacks to more than 1,048,576 bytes; if"
    ):
        open_source(path).schema  # noqa: B018


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "a,b\n1,x\n2,\u00fc\n"),
        ("t.tsv", "a\tb\n1\tx\n2\t\u00fc\n"),
        ("t.txt", "a   b\n1   x\n2   \u00fc\n"),
        ("t.jsonl", '{"a": 1, "b": "x"}\n{"a": 2, "b": "\u00fc"}\n'),
        ("t.json", '[{"a": 1, "b": "x"}, {"a": 2, "b": "\u00fc"}]'),
    ],
)
def test_text_is_read_packed_as_it_is_unpacked(
    tmp_path: Path, name: str, content: str, suffix: str
) -> None:
    source = open_source(packed(tmp_path, name + suffix, content.encode()))

    rows = pa.Table.from_batches(source.batches(), source.schema).to_pylist()
    assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": "\u00fc"}]


@pytest.mark.parametrize("damage", [slice(0, -20), slice(20, None)], ids=["cut", "begun late"])
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, damage: slice) -> None:
    path = packed(tmp_path, f"t.csv{suffix}", b"a,b\n" + CONTENT)
    path.write_bytes(path.read_bytes()[damage])

    with pytest.raises(SourceError, match=rf"t\.csv\{suffix} cannot be read"):
        open_source(path).schema  # noqa: B018


def test_packed_parquet_is_refused_and_the_way_out_said(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"no known format; known suffixes: \.arrow, .*; with"
    ):
        open_source(packed(tmp_path, "t.parquet.gz", b"PAR1"))
