"""Files whose names mean that their bytes are there: the ground that publications stand on.

A file is written under a temporary name, made durable, and only then given its own name; the
name is durable when the folder is. Nothing is ever overwritten by accident: a name is given
once, by a hard link or by a rename that refuses to replace.
"""

import ctypes
import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_NOREPLACE = 1
HERE = -100  # AT_FDCWD
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, or find it there.

    Raises:
        FileNotFoundError: another process moved it, or a parent, away meanwhile.
        FileExistsError: a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # by `mkdir` of a folder, too, that is gone when it looks
        if folder.is_file():
            raise
        raise FileNotFoundError(errno.ENOENT, "moved away meanwhile", str(folder)) from None


def durable_folder(folder: Path) -> None:
    """Make a folder with its parents; the names of those that were missing survive, too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


class DiskFullError(OSError):
    """There is no room for a file; says where, and that what is finished is kept."""


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Say of a full disk what to do.

    Raises:
        DiskFullError: instead of the system's bare number.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskFullError):
            raise
        way_out = "free some space and run again: what is finished is kept"
        raise DiskFullError(error.errno, f"{error.strerror}; {way_out}", str(folder)) from None


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Yield an empty file in `folder` that is gone afterwards, whatever happens.

    Raises:
        DiskFullError: there is no room in it.
    """
    with room_in(folder):
        durable_folder(folder)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".tmp-")
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def folder_of(owner: object) -> Path:
    """Return a new temporary folder that is removed when `owner` goes."""
    folder = Path(tempfile.mkdtemp(prefix="latents-"))
    weakref.finalize(owner, _remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork has a copy of the owner, and no right to its folder
        shutil.rmtree(folder, ignore_errors=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write `content` and wait until it would survive a power loss."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def name_once(temporary: Path, path: Path) -> bool:
    """Give the durable file its final name unless the name is taken; then fsync the name.

    False where the name was taken.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if not _rename_once(temporary, path):  # no hard links here (some network drives)
            return False
    fsync_folder(path.parent)
    return True


def _rename_once(temporary: Path, path: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = os.fsencode(temporary), os.fsencode(path)
    if libc.renameat2(HERE, source, HERE, target, RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(
        code,
        f"{os.strerror(code)}: the file system has neither hard links nor exclusive rename, "
        f"so two writers could overwrite each other; keep home on another file system",
        str(path),
    )
