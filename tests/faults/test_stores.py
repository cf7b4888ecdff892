"""RELIABILITY 2a: file systems and what lies on them: no hard links, read-only, old and new formats."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from data.features import open_features
from data.garbage import collect, superseded
from data.publication import FormatError, put_once, read_manifest
from data.snapshot import ingest, open_snapshot
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.small import PART_ROWS, contents, table
from tests.faults.test_killed import publish
from tests.flows.conftest import latents
from tests.flows.test_encode import encoded, encoder_of
from vae_engine.artifact import load_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_hard_links")
def test_no_hard_links(tmp_path: Path, cases: Cases) -> None:
    """A rename that refuses to replace takes their place; the publication is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        expected = contents(publish(tmp_path / "linked"))

    assert contents(publish(tmp_path / "renamed")) == expected
    assert put_once(tmp_path / "a", b"first")
    assert not put_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    cases("2a NFS / no hard links", 2)


@pytest.mark.usefixtures("no_hard_links")
def test_neither_hard_links_nor_exclusive_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with the reason: never a plain rename over what is there."""

    class Without:
        def renameat2(self, *_: Any) -> int:
            import ctypes

            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Without())

    with pytest.raises(OSError, match="neither hard links nor exclusive rename"):
        put_once(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == []


def test_read_only_home(tmp_path: Path) -> None:
    """A home that cannot be written is said in a line, and nothing is a traceback.

    Root may write anywhere: a file in the way of the folder stands for a read-only disk there.
    """
    home = tmp_path / "home"
    if os.geteuid() == 0:
        home.write_bytes(b"")
    else:
        home.mkdir(mode=0o500)

    done = latents("ingest", "mnist", home=home)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(home) in done.stderr.replace("\n", "")


@pytest.fixture
def two_publications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)
    home = Home(tmp_path / "home")
    for rows in (200, 300, 400):
        snapshot = ingest(table(rows), name="t", root=home.datasets, key="id")
        if rows == 200:
            encoder = encoder_of(home.root, snapshot)
        encoded(home, snapshot, encoder)
    return home


def test_gc_while_reading(two_publications: Home, cases: Cases) -> None:
    """A reader who had opened a publication reads it whole, or is told that it is gone."""
    home = two_publications
    old = min(home.features.glob("t/*/publication=*"), key=lambda p: p.stat().st_mtime)
    reader = open_features("t", home=home.root, publication=old.name.partition("=")[2])
    batches = reader.batches(50)
    first = next(batches)

    removed, _ = collect(superseded(home.root, "t", keep=0, hours=0))

    assert removed == 2
    cases("2a gc while reading", 3)
    assert open_features("t", home=home.root, verify=True).rows == 400
    with pytest.raises(FormatError, match="is damaged"):  # never half of it in silence
        assert first.num_rows + sum(batch.num_rows for batch in batches) < 200


def test_old_files_are_read(cases: Cases, tmp_path: Path) -> None:
    """Snapshots, models and features of every released version, as they were written then."""
    versions = sorted(GOLDEN.glob("home-*"))
    assert versions
    for stored in versions:
        home = tmp_path / stored.name
        shutil.copytree(stored, home)
        (snapshot,) = (p.parent for p in home.glob("datasets/*/*/manifest.json"))
        features = open_features("small", home=home, verify=True)
        known = json.loads((home / "expected.json").read_text())
        cases("2a new reader, old files")
        assert open_snapshot(snapshot).fingerprint == known["fingerprint"]
        open_snapshot(snapshot).verify()
        assert features.rows == known["rows"]
        assert features.to_numpy("z_mean")[0].tolist() == pytest.approx(known["z_mean"])
        load_model(home / "model", digest=known["digest"])


@pytest.mark.parametrize("version", [2, "1.1", None, 0, -1])
def test_newer_files_are_refused(tmp_path: Path, version: Any, cases: Cases) -> None:
    """A version that we cannot know is refused by its number, before anything is read."""
    final = publish(tmp_path)
    document = json.loads((final / "manifest.json").read_bytes()) | {"format_version": version}
    (final / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(FormatError, match="this code reads 'test/format' up to version 1"):
        read_manifest(final, format="test/format", version=1)
    cases("2a old reader, new writer")


def test_a_field_that_we_do_not_know_is_passed_over(tmp_path: Path, cases: Cases) -> None:
    """Fields may be added within a version: an old reader reads on."""
    final = publish(tmp_path)
    document = json.loads((final / "manifest.json").read_bytes()) | {"added_later": [1]}
    (final / "manifest.json").write_text(json.dumps(document))

    assert read_manifest(final, format="test/format", version=1)["rows"] == 300
    cases("2a old reader, new writer")
