"""RELIABILITY 2d, traversal, symlinks, archives: no name and no link leads out of its folder."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features import NotPublishedError, list_publications, open_features
from data.formats import SourceError
from data.publication import NAME, FormatError, Staging, safe_name
from data.snapshot import Snapshot, ingest, open_snapshot
from data.sources import open_source
from flows import tracking
from flows.settings import Home
from flows.spec import SpecError, load_spec
from tests.faults.conftest import Cases

PARENTS = ["..", "../x", "x/../../y", "..\\x", "a..b", "...", "./x", ".", ".hidden", "x/.."]
SEPARATORS = ["/", "/etc/passwd", "a/b", "a//b", "a\\b", "\\\\host\\share", "C:\\x", "c:x", "~"]
ESCAPES = [
    "%2e%2e",
    "%2e%2e%2fx",
    "a%2fb",
    "%00",
    "a%5cb",
    "\\x2e\\x2e",
    "&#46;&#46;",
    "..%c0%af",
]
CONTROLS = [" ", "a b", " a", "a ", "a\nb", "a\n", "\ta", "a\rb", "a\0b", "a\x1b[31m", "a\x7f"]
LENGTHS = ["a" * 65, "a" * 300, "a" * 5000]
LETTERS = ["A", "Äa", "ａ", "a\u202eb", "a\u0301", "а", "a\u200b", "😀", "a\ud800", "İ"]
SHELL = ["a;b", "a|b", "$HOME", "`id`", "$(id)", "a&b", "a'b", 'a"b', "a*b", "-rf", "_x", "a:b"]
BAD = PARENTS + SEPARATORS + ESCAPES + CONTROLS + LENGTHS + LETTERS + SHELL


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_name_is_none(name: str, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, traversal: of data sets, models, publications, in specs and queries."""
    cases("2d traversal in names")
    with pytest.raises(ValueError, match="cannot be a name"):
        safe_name(name)
    with pytest.raises(SpecError, match="cannot be a name"):
        load_spec("mnist", [f"dataset.name={json.dumps(name, ensure_ascii=False)}"])
    with pytest.raises(SpecError, match="cannot be a name"):
        load_spec("mnist", [f"registry.model={json.dumps(name, ensure_ascii=False)}"])
    for place in ({"name": name}, {"name": "x", "publication": name}):
        with pytest.raises(NotPublishedError):
            open_features(**place, home=tmp_path)  # type: ignore[arg-type]
    assert tracking.versions(Home(tmp_path), name) == []
    assert list(tmp_path.iterdir()) == []


def test_there_are_sixty_bad_names() -> None:
    assert len(set(BAD)) >= 60


@given(st.text())
def test_a_name_is_a_folder_of_its_own_or_none(name: str) -> None:
    """RELIABILITY 2d, traversal."""
    root = Path("/home/of/names")
    try:
        folder = root / safe_name(name)
    except ValueError:
        return
    assert folder.parent == root
    assert Path(os.path.normpath(folder)) == folder
    assert NAME.fullmatch(name)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    table = pa.table({"id": np.arange(60), "x": np.arange(60) * 1.5})
    return ingest(table, name="t", root=tmp_path / "root", key="id")


def rewritten(snapshot: Snapshot, path: str) -> None:
    manifest = json.loads((snapshot.path / "manifest.json").read_bytes())
    manifest["parts"][0]["path"] = path
    (snapshot.path / "manifest.json").write_text(json.dumps(manifest))


OUTSIDE = ["../../x.parquet", "/x.parquet", "data/../../x.parquet", "data", "data/", "data/.x"]
OUTSIDE += ["data/a/b.parquet", "data/..", "", "data\\x", "data/x\n"]


@pytest.mark.parametrize("path", OUTSIDE, ids=ascii)
def test_a_manifest_does_not_lead_out_of_its_folder(
    snapshot: Snapshot, path: str, cases: Cases
) -> None:
    """RELIABILITY 2d, logs of an outsider: names are looked at before anything is read."""
    cases("2d manifest of an outsider")
    rewritten(snapshot, path)

    with pytest.raises(FormatError, match="leads to files outside itself"):
        open_snapshot(snapshot.path)


LINKED: dict[str, Callable[[Path], Path]] = {
    "a part": lambda folder: folder / "data" / "part-00000.parquet",
    "the parts": lambda folder: folder / "data",
    "the manifest": lambda folder: folder / "manifest.json",
}


@pytest.mark.parametrize("what", LINKED)
def test_a_published_folder_holds_no_links(
    what: str, snapshot: Snapshot, tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY 2d, symlinks: what a link leads to changes unseen."""
    cases("2d symlinks")
    linked = LINKED[what](snapshot.path)
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FormatError, match="leads to files outside itself"):
        open_snapshot(snapshot.path)


@pytest.mark.parametrize("target", ["whole", "/etc/passwd", "nowhere"])
def test_a_link_in_staging_is_not_adopted(target: str, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, symlinks: the part is written, whatever the link leads to."""
    cases("2d symlinks")
    table = pa.table({"x": [1.5, 2.5]})
    first = Staging(tmp_path, "p")
    first.write_part(0, table, {})
    part = first.path / "data" / "part-00000.parquet"
    whole = tmp_path / "whole"
    whole.write_bytes(part.read_bytes())
    part.unlink()
    part.symlink_to(whole if target == "whole" else target)
    record = Staging(tmp_path, "p").write_part(0, table, {})
    final = first.commit(tmp_path / "final", [record], {"format": "t", "format_version": 1})

    assert not (final / "data" / "part-00000.parquet").is_symlink()
    assert pq.read_table(final / "data" / "part-00000.parquet").equals(table)


@pytest.mark.parametrize("pattern", ["", "*.csv", "*/*.csv", "**/*.csv"])
@pytest.mark.parametrize("linked", ["file", "folder"])
def test_links_do_not_lead_out_of_a_folder_of_sources(
    pattern: str, linked: str, tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY 2d, symlinks: in a folder or a glob that is read."""
    cases("2d symlinks")
    secret = tmp_path / "secrets"
    secret.mkdir()
    (secret / "s.csv").write_text("a,b\n7,8\n")
    inbox = tmp_path / "inbox"
    (inbox / "sub").mkdir(parents=True)
    (inbox / "a.csv").write_text("a,b\n1,2\n")
    (inbox / "sub" / "b.csv").write_text("a,b\n3,4\n")
    if linked == "file":
        (inbox / "c.csv").symlink_to(secret / "s.csv")
        (inbox / "sub" / "c.csv").symlink_to(secret / "s.csv")
    else:
        (inbox / "link").symlink_to(secret)

    read: list[Any] = []
    try:
        for batch in open_source(str(inbox / pattern)).batches():
            read += batch["a"].to_pylist()
    except SourceError as error:
        assert "is a link that leaves" in str(error)  # noqa: PT017
    assert 7 not in read


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip", ".tgz", ".7z"])
def test_archives_are_no_sources(suffix: str, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, archives: refused, so that nothing is unpacked."""
    cases("2d archives")
    (tmp_path / "x").write_text("x")
    archive = tmp_path / f"t{suffix}"
    with tarfile.open(archive, "w") as file:
        file.add(tmp_path / "x", "../../evil")

    with pytest.raises(SourceError, match="is of no known format"):
        open_source(archive)


@pytest.mark.parametrize(
    ("mode", "said"), [("w:gz", "is an archive of files"), ("w", "cannot be read")]
)
@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t-idx3-ubyte.gz"])
def test_an_archive_by_another_name_is_refused_too(
    name: str, mode: Literal["w", "w:gz"], said: str, tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY 2d, archives: a packed file is one stream of bytes, or nothing."""
    cases("2d archives")
    (tmp_path / "x").write_text("a,b\n1,2\n")
    archive = tmp_path / name
    with tarfile.open(archive, mode) as file:
        file.add(tmp_path / "x", "../../evil")

    with pytest.raises(SourceError, match=f"{name} {said}"):
        open_source(archive).schema  # noqa: B018


def test_names_in_an_npz_are_columns_and_no_paths(tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, archives: an .npz is a zip, of which nothing is unpacked to disk."""
    cases("2d archives")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {"../../evil": np.arange(3), "/evil": np.arange(3)}
    np.savez(folder / "t.npz", **arrays)
    before = sorted(tmp_path.rglob("*"))

    assert open_source(folder / "t.npz").schema.names == ["../../evil", "/evil"]
    assert sorted(tmp_path.rglob("*")) == before
    assert list_publications(tmp_path) == []
