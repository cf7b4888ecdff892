"""Files that gzip, bzip2 or Zstandard packed, read as what they hold: the suffix says by which.

A small file may unpack to more than any disk holds: what has passed the limit is refused.
"""

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from data.formats import SourceError, most_unpacked

BUFFER_BYTES = 1 << 20
TAR, TAR_AT = b"ustar", 257  # what an archive of tar's has there
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def codec_of(path: Path) -> str | None:
    """What packed a file, as Arrow calls it; None: it is as it is."""
    return CODECS.get(path.suffix.lower())


def bare(path: Path) -> Path:
    """The name of what is packed: "adult.csv" of "adult.csv.gz"."""
    return path.with_suffix("") if codec_of(path) else path


def unpacked(path: Path) -> BinaryIO:
    """Open a file, packed or not.

    Raises:
        SourceError: an archive is packed in it; or, in reading, what comes out is out of all
            proportion to the file.
    """
    codec = codec_of(path)
    if codec is None:
        return path.open("rb")
    file = io.BufferedReader(_Unpacking(path, codec), BUFFER_BYTES)
    if file.peek()[TAR_AT : TAR_AT + len(TAR)] == TAR:
        file.close()
        raise SourceError(f"{path} is an archive of files; unpack it, and name what was in it")
    return cast(BinaryIO, file)


class _Unpacking(io.RawIOBase):
    """What comes out of a packed file, counted."""

    def __init__(self, path: Path, codec: str) -> None:
        super().__init__()
        self._path, self._left = path, most_unpacked(path.stat().st_size)
        self._file = pa.OSFile(str(path))
        self._stream = pa.CompressedInputStream(self._file, codec)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        content = self._stream.read(len(room))
        self._left -= len(content)
        if self._left < 0:
            raise SourceError(
                f"{self._path} unpacks to more than {most_unpacked(self._path.stat().st_size):,} "
                f"bytes; if it is not a decompression bomb, unpack it, or pack it in several files"
            )
        room[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()
