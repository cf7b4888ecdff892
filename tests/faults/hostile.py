"""Files made by hand to hurt who reads them: each a small file that asks for too much."""

import io
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
from PIL import Image

LINE_BYTES = 64 << 20  # longer than any block that is read
ENDLESS = "(1000000000000,)"  # a shape of 10^12 rows
ZEROS = 3800 << 20  # bytes, below what is taken for a bomb by what it announces


def npy(header: bytes, *, announced: int | None = None, version: int = 1) -> bytes:
    length = len(header) if announced is None else announced
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", length)
        + header
    )


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return text.rjust(118)


def deflated(start: bytes, zeros: int) -> bytes:
    """`start` and so many zeros as a raw deflate stream, a block of which is packed once."""
    block = bytes(1 << 24)
    first, repeated, last = (zlib.compressobj(9, zlib.DEFLATED, -15) for _ in range(3))
    return (
        first.compress(start)
        + first.flush(zlib.Z_FULL_FLUSH)
        + (repeated.compress(block) + repeated.flush(zlib.Z_FULL_FLUSH)) * (zeros // len(block))
        + last.flush()
    )


def zipped(name: bytes, packed: bytes, announced: int, crc: int = 0) -> bytes:
    """A zip file of one member, which says it is `announced` bytes long."""
    sizes = struct.pack("<IIIH", crc, len(packed), announced, len(name))
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 0) + sizes + b"\0\0" + name + packed
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 0) + sizes + bytes(16) + name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def png(width: int, height: int, packed: bytes, extra: bytes = b"") -> bytes:
    size = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", size)
        + extra
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def long_line_beyond_disk(path: Path) -> None:
    """2 GB that take no room."""
    with path.open("wb") as file:
        file.write(b"a,b\n" + b"1,2\n" * 10_000)
        file.truncate(2 << 30)


def long_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write(npy(b"{", announced=0xFFFF_FFF0, version=2))
        file.truncate(4 << 30)


def giant_cells(path: Path) -> None:
    """100 rows of nearly 1 GB, which a database makes up as it is asked."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (id integer primary key, x as (zeroblob(9e8)))")
        connection.executemany("insert into t (id) values (?)", [(k,) for k in range(100)])
    connection.close()


def unwritten_index(path: Path) -> None:
    """A column of 8 GB that was announced, and never written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=np.zeros((3, 2), np.float32))
        obs = file.create_group("obs")
        obs.attrs["_index"] = "cell"
        obs.create_dataset("cell", shape=(1 << 30,), dtype="f8", chunks=(1 << 20,))


def many_scans(path: Path) -> None:
    """A progressive JPEG of 64 million pixels, each of which is refined again and again."""
    content = io.BytesIO()
    Image.new("L", (8000, 8000)).save(content, "JPEG", progressive=True)
    start, *scans = content.getvalue()[:-2].split(b"\xff\xda")
    again = b"".join(b"\xff\xda" + scan for scan in scans)
    path.write_bytes(start + again * 20 + b"\xff\xd9")


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content())


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a CSV line without end": (
        "t.csv",
        _bytes(lambda: b"a,b\n1," + b"7" * LINE_BYTES + b"\n"),
        "straddles two block boundaries",
    ),
    "a quote without end": (
        "t.csv",
        _bytes(lambda: b'a,b\n"' + b"x" * LINE_BYTES),
        "straddles two block boundaries",
    ),
    "a header of four million columns": (
        "t.csv",
        _bytes(lambda: b"," * (4 << 20) + b"\n"),
        "cannot infer number of columns",
    ),
    "blank lines where a decimal mark is looked for": (
        "t.csv",
        _bytes(lambda: b"a;b\n" + b" \n" * (2 << 20)),
        "Row #2: Expected 2 columns, got 1",
    ),
    "an array longer than its file": ("t.npy", _bytes(lambda: npy(header(ENDLESS))), "mmap"),
    "an array of negative length": ("t.npy", _bytes(lambda: npy(header("(-5,)"))), "negative"),
    "an array beyond 64 bits": (
        "t.npy",
        _bytes(lambda: npy(header("(4294967296, 4294967296, 4)"))),
        "too big",
    ),
    "rows of no entries": (
        "t.npy",
        _bytes(lambda: npy(header("(1000000000000, 0)"))),
        "holds rows of no entries in ['x']",
    ),
    "cells of no bytes": (
        "t.npy",
        _bytes(lambda: npy(header(ENDLESS, "'|S0'"))),
        "holds rows of no entries in ['x']",
    ),
    "objects in an array": (
        "t.npy",
        _bytes(lambda: npy(header("(1,)", "'|O'")) + b"cposix\nabort\n(tR."),
        "Python objects",
    ),
    "a header of brackets": ("t.npy", _bytes(lambda: npy(b"(" * 9000)), "cannot be read"),
    "a header of minus signs": ("t.npy", _bytes(lambda: npy(b"-" * 9000)), "memory"),
    "a header of 4 GB": ("t.npy", long_header, "announces a header of 4,294,967,280 bytes"),
    "a zip that unpacks to more than it says": (
        "t.npz",
        _bytes(lambda: zipped(b"a.npy", deflated(npy(header("(8,)")), ZEROS), 192)),
        "Bad CRC-32",
    ),
    "an array in a zip longer than memory": (
        "t.npz",
        _bytes(
            lambda: zipped(
                b"a.npy",
                deflated(npy(header(ENDLESS)), 0),
                len(npy(header(ENDLESS))),
                zlib.crc32(npy(header(ENDLESS))),
            )
        ),
        "needs more than 4 GiB",
    ),
    "an array of 4 GB in 4 MB": (
        "t.npz",
        _bytes(
            lambda: zipped(
                b"a.npy",
                deflated(npy(header(f"({ZEROS // 8},)")), ZEROS),
                ZEROS + len(npy(header(f"({ZEROS // 8},)"))),
            )
        ),
        "needs more than 4 GiB",
    ),
    "an IDX file that packs 4 GB in 4 MB": (
        "t-images-idx1-ubyte.gz",
        _bytes(
            lambda: (
                b"\x1f\x8b\x08\0\0\0\0\0\0\3"
                + deflated(struct.pack(">HBBI", 0, 8, 1, ZEROS), ZEROS)
            )
        ),
        "needs more than 4 GiB",
    ),
    "an IDX file of 2^96 bytes": (
        "t-images-idx3-ubyte",
        _bytes(lambda: struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)),
        "would unpack to",
    ),
    "a picture of 3,600 million pixels": (
        "t.png",
        _bytes(lambda: png(60_000, 60_000, b"")),
        "would unpack to more than 67,108,864 pixels",
    ),
    "a picture that ends after its first rows": (
        "t.png",
        _bytes(lambda: png(8000, 8000, zlib.compress(bytes(80_010))[:50])),
        "is truncated",
    ),
    "a picture with 64 MB of comment": (
        "t.png",
        _bytes(
            lambda: png(
                1,
                1,
                zlib.compress(bytes(2)),
                _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(LINE_BYTES))),
            )
        ),
        "too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ),
    "a table whose cells are computed": ("t.db", giant_cells, "Cannot allocate memory"),
    "a column that was never written": ("t.h5ad", unwritten_index, "needs more than 4 GiB"),
}
LARGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a CSV line of 2 GB": ("t.csv", long_line_beyond_disk, "straddles two block boundaries"),
}
