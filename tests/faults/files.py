"""A small file of every format that is read, and damaged copies of it by a seed."""

import gzip
import json
import random
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
from PIL import Image

ROWS = 60
RANDOM = np.random.default_rng(0)
TABLE = pa.table(
    {
        "id": np.arange(ROWS),
        "n": [1, None, 3] * 20,
        "x": RANDOM.normal(size=ROWS),
        "s": ["a", "bb", None] * 20,
    }
)
BLANKS = (range(ROWS), RANDOM.normal(size=ROWS), ["a", "bb", "?"] * 20)
IMAGES = RANDOM.integers(0, 256, (20, 6, 6)).astype(np.uint8)
IDX = struct.pack(">HBB3I", 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()


def checked_parquet(path: Path) -> None:
    pq.write_table(TABLE, path, write_page_checksum=True)


def json_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in TABLE.to_pylist()))


def json_array(path: Path) -> None:
    path.write_text(json.dumps(TABLE.to_pylist(), indent=1))


def packed_csv(path: Path) -> None:
    plain = path.with_suffix("")
    pa.csv.write_csv(TABLE, plain)
    path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()


def blanks(path: Path) -> None:
    path.write_text("".join(f"{n}   {x:.3f} {s}\n" for n, x, s in zip(*BLANKS, strict=True)))


def picture(path: Path) -> None:
    Image.fromarray(IMAGES[0]).resize((24, 24)).save(path)


def sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (id integer primary key, x real, s text)")
        rows = [(k, k / 2, "abc" * (k % 5)) for k in range(200)]
        connection.executemany("insert into t values (?, ?, ?)", rows)
    connection.close()


def duck(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table t as select k as id, k / 2 as x, 'abc' as s from range(200) r(k)"
        )


def h5ad(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=RANDOM.integers(0, 5, (30, 7)).astype(np.float32))
        obs = file.create_group("obs")
        obs.attrs["_index"] = "cell"
        obs.attrs["column-order"] = ["q"]
        names = [f"c{k}" for k in range(30)]
        obs.create_dataset("cell", data=names, dtype=h5py.string_dtype())
        obs.create_dataset("q", data=np.arange(30.0))


WRITERS: dict[str, Callable[[Path], object]] = {
    "t.parquet": checked_parquet,
    "t.arrow": lambda path: pa.feather.write_feather(TABLE, path),
    "t.feather": lambda path: pa.feather.write_feather(TABLE, path, compression="uncompressed"),
    "t.csv": lambda path: pa.csv.write_csv(TABLE, path),
    "t.csv.gz": packed_csv,
    "t.dat": blanks,
    "t.json": json_array,
    "t.jsonl": json_lines,
    "t.npy": lambda path: np.save(path, RANDOM.normal(size=(50, 3))),
    "t.npz": lambda path: np.savez_compressed(path, a=RANDOM.normal(size=50), b=range(50)),
    "t.idx": lambda path: path.write_bytes(IDX),
    "t-images-idx3-ubyte.gz": lambda path: path.write_bytes(gzip.compress(IDX, mtime=0)),
    "t.png": picture,
    "t.jpg": picture,
    "t.db": sqlite,
    "t.duckdb": duck,
    "t.h5ad": h5ad,
}
# A byte that changed cannot go unseen: what is read is what was written.
CHECKSUMMED = ("t.parquet", "t.csv.gz", "t-images-idx3-ubyte.gz", "t.png")


def source_of(path: Path) -> str:
    """What a spec calls the file."""
    if path.suffix == ".db":
        return f"sqlite:///{path}"
    if path.suffix == ".duckdb":
        return f"duckdb:///{path}"
    return str(path.parent if path.suffix in (".png", ".jpg") else path)


def damaged(whole: bytes, copies: int, seed: int) -> Iterator[bytes]:
    """Yield copies with a bit flipped, bytes written over, a piece moved, or the end cut off.

    A half of the bytes written over are among the first, where formats say what follows.
    """
    draws = random.Random(seed)
    for _ in range(copies):
        copy = bytearray(whole)
        how = draws.choice(["bit", "byte", "bytes", "moved", "cut"])
        place = draws.randrange(len(copy))
        if how == "bit":
            copy[place] ^= 1 << draws.randrange(8)
        elif how == "byte":
            near = draws.randrange(min(len(copy), draws.choice([64, len(copy)])))
            copy[near] = draws.choice([0, 127, 128, 255, draws.randrange(256)])
        elif how == "bytes":
            for _ in range(8):
                copy[draws.randrange(len(copy))] = draws.randrange(256)
        elif how == "moved":
            source = draws.randrange(len(copy))
            piece = copy[source : source + 4]
            copy[place : place + len(piece)] = piece
        else:
            del copy[place:]
        yield bytes(copy)
