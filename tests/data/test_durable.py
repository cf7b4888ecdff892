"""What holds for folders that several processes make and move at the same time."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from data.durable import make_folder


@contextmanager
def removed_again_and_again(*folders: Path) -> Iterator[None]:
    ends = Event()

    def remove() -> None:
        while not ends.is_set():
            for folder in folders:
                with suppress(OSError):
                    folder.rmdir()

    other = Thread(target=remove)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        yield
    finally:
        ends.set()
        other.join()
        sys.setswitchinterval(interval)


def test_a_folder_that_is_moved_away_is_not_said_to_exist(tmp_path: Path) -> None:
    folder, came = tmp_path / "a" / "data", Counter[str]()
    with removed_again_and_again(folder, folder.parent):
        for _ in range(5000):
            try:
                make_folder(folder)
            except OSError as error:
                came[type(error).__name__] += 1

    assert set(came) <= {"FileNotFoundError"}


def test_a_file_in_its_place_is(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")

    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "data")
