"""RELIABILITY 2a, power loss: bytes before their name, names before what points at them.

The kernel's own record of a whole run of the storage (strace) is read: each file that is given
a name was fsynced before, the folder of the name after, and so was the parent of each new folder
that holds what was published. Losing unsynced writes for real takes a block device and root.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.conftest import Cases

SCRIPT = """
import sys
from pathlib import Path
import torch
from data.features import write_latest
from flows.ingest import ingest_dataset
from flows.settings import Home
from tests.faults.small import spec_of, trained, written
from tests.faults.test_killed import publish

torch.set_num_threads(1)
root = Path(sys.argv[1])
spec, home = spec_of(written(root / "source")), Home(root / "home")
trained(spec, home)
publish(home.features)
"""
CALL = re.compile(r"(fsync|link|linkat|rename|renameat|renameat2|mkdir|mkdirat)\((.*)\)\s+= 0")
QUOTED = re.compile(r'"([^"]*)"')
OPENED = re.compile(r"\d+<([^>]*)>")


class Event(NamedTuple):
    """One system call that succeeded: what it did, from where, to where."""

    name: str
    source: str
    target: str


def events(trace: str) -> Iterator[Event]:
    for line in trace.splitlines():
        if (found := CALL.search(line)) is None:
            continue
        name, arguments = found.groups()
        if name == "fsync":
            path = OPENED.search(arguments)
            assert path is not None, line
            yield Event("fsync", path.group(1), "")
        else:
            paths = QUOTED.findall(arguments)
            yield Event(name.rstrip("at2"), paths[0], paths[-1])


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    root = tmp_path_factory.mktemp("power")
    log = root / "trace"
    calls = "fsync,link,linkat,rename,renameat,renameat2,mkdir,mkdirat"
    done = subprocess.run(
        ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(log), "-e", f"trace={calls}",
         sys.executable, "-c", SCRIPT, str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )  # fmt: skip
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"ptrace is denied here: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    home = root / "home"
    found = [e for e in events(log.read_text()) if str(home) in e.source + e.target]
    return home, found


def test_power_loss_bytes_come_before_their_name(
    trace: tuple[Path, list[Event]], cases: Cases
) -> None:
    _, happened = trace
    synced: set[str] = set()
    for event in happened:
        if event.name == "fsync":
            synced.add(event.source)
        elif event.name in {"link", "rename"}:
            cases("2a power loss: fsync(file) before its name")
            inside = {path for path in synced if path.startswith(f"{event.source}/")}
            assert event.source in synced or inside, event
            synced -= {event.source}


def test_power_loss_names_are_synced_in_the_end(
    trace: tuple[Path, list[Event]], cases: Cases
) -> None:
    """In the end: a name that is lost before its stage has said that it is done is made again."""
    home, happened = trace
    for place, event in enumerate(happened):
        if event.name == "fsync" or ".staging/.tmp" in event.target:
            continue
        cases("2a power loss: fsync(folder) after a name in it")
        parent = str(Path(event.target).parent)
        is_kept = Path(event.target).exists() and event.target != str(home)
        later = {each.source for each in happened[place + 1 :] if each.name == "fsync"}
        assert not is_kept or parent in later, event


def test_power_loss_the_pointer_comes_last(
    trace: tuple[Path, list[Event]], cases: Cases
) -> None:
    """The manifest's name, then the folder's, then `latest.json`; the record after the model."""
    _, happened = trace
    named = [event.target for event in happened if event.name in {"link", "rename"}]

    def first(end: str) -> int:
        return next(place for place, path in enumerate(named) if path.endswith(end))

    assert first("abc/manifest.json") < first("/publication=abc") < first("/latest.json")
    assert first("/model") < first("/trained.json")
    assert first("part-00002.parquet") < first("abc/manifest.json")
