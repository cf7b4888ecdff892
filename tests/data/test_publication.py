import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.publication import (
    FormatError,
    PartRecord,
    Staging,
    canonical_json,
    digest_of,
    locked,
    put_once,
    read_manifest,
    replace_file,
    safe_name,
    verify_parts,
)

FORMAT = "test/format"
HEADER = {"format": FORMAT, "format_version": 1}
TABLES = [pa.table({"key": [f"{part}{row}" for row in range(4)]}) for part in range(3)]


def publish(root: Path, tables: list[pa.Table] = TABLES) -> Path:
    staging = Staging(root, "abc")
    with locked(staging.lock_path()):
        parts = [staging.write_part(k, table, {}) for k, table in enumerate(tables)]
        return staging.commit(root / "name" / "abc", parts, HEADER)


def published(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_a_publication_is_its_parts_and_a_manifest(tmp_path: Path) -> None:
    path = publish(tmp_path)

    manifest = read_manifest(path, format=FORMAT, version=1)
    verify_parts(path, manifest)
    assert manifest["rows"] == 12
    assert list(published(path)) == [
        *(f"data/part-0000{k}.parquet" for k in range(3)),
        "manifest.json",
    ]
    assert pq.read_table(path / "data")["key"].to_pylist() == [
        key for table in TABLES for key in table["key"].to_pylist()
    ]


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    before = published(publish(tmp_path))
    inodes = [file.stat().st_ino for file in sorted(tmp_path.rglob("*.parquet"))]

    assert published(publish(tmp_path)) == before
    assert [file.stat().st_ino for file in sorted(tmp_path.rglob("*.parquet"))] == inodes


def test_nothing_is_left_in_staging(tmp_path: Path) -> None:
    publish(tmp_path)

    assert [path for path in (tmp_path / ".staging").rglob("*") if path.is_file()] == []


def test_another_content_under_the_same_name_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)

    with pytest.raises(FormatError, match="published files never change"):
        publish(tmp_path, TABLES[:2])
    assert read_manifest(tmp_path / "name" / "abc", format=FORMAT, version=1)["rows"] == 12


def flipped(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def test_a_part_of_another_publication_is_not_adopted(tmp_path: Path) -> None:
    staging = Staging(tmp_path, "abc")
    staging.write_part(0, TABLES[0], {"model": "1"})

    assert staging.adopt(0, {"model": "2"}) is None
    assert staging.adopt(0, {"model": "1"}) is None  # it was torn down


def test_a_damaged_publication_is_found_out(tmp_path: Path) -> None:
    path = publish(tmp_path)
    manifest = read_manifest(path, format=FORMAT, version=1)
    (path / "data" / "part-00001.parquet").unlink()
    changed = path / "data" / "part-00002.parquet"
    changed.write_bytes(flipped(changed.read_bytes(), 8))

    with pytest.raises(FormatError) as caught:
        verify_parts(path, manifest)
    assert str(caught.value) == (
        f"{path} is damaged: data/part-00001.parquet is missing; "
        f"data/part-00002.parquet is not the file that was published; publish it again"
    )


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_names_are_still_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """RELIABILITY 2a, NFS / no hard links."""

    def refuse(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)

    assert put_once(tmp_path / "a", b"first")
    assert not put_once(tmp_path / "a", b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_replacing_leaves_one_file_with_the_new_bytes(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"old")
    replace_file(tmp_path / "a", b"new")

    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a..b", "A", "é", "a b", "-a", ".a", "a\n", "a\\b", "a" * 65]
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name; use 1 to 64"):
        safe_name(name)


@given(st.text())
def test_a_safe_name_is_one_plain_path_component(name: str) -> None:
    try:
        safe = safe_name(name)
    except ValueError:
        return
    assert (Path("/root") / safe).resolve().parent == Path("/root")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))

    assert canonical_json(value) == canonical_json(backwards)
    assert digest_of(value) == digest_of(backwards)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format":"other","format_version":1}', "is 'other' version 1; this code reads"),
        (b'{"format":"test/format","format_version":2}', "version 2; this code reads"),
        (b"[]", "is 'unmarked' version 0; this code reads 'test/format' up to version 1"),
        (b"{", "is not JSON"),
    ],
)
def test_a_manifest_that_we_cannot_know_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(FormatError, match=message):
        read_manifest(tmp_path, format=FORMAT, version=1)


def test_a_folder_without_a_manifest_is_not_a_publication(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nothing is published there"):
        read_manifest(tmp_path, format=FORMAT, version=1)


def grown(root: Path, earlier: Path) -> tuple[Path, list[PartRecord | None]]:
    """Publish the same parts and one more, taking from `earlier` what can be taken."""
    manifest = read_manifest(earlier, format=FORMAT, version=1)
    staging = Staging(root, "grown")
    taken = [
        staging.adopt_from(earlier, PartRecord(**part), number)
        for number, part in enumerate(manifest["parts"])
    ]
    parts = [
        record or staging.write_part(number, TABLES[number], {})
        for number, record in enumerate(taken)
    ]
    parts.append(staging.write_part(len(parts), TABLES[0], {}))
    return staging.commit(root / "name" / "grown", parts, HEADER), taken


def test_parts_of_an_earlier_publication_are_linked(tmp_path: Path) -> None:
    earlier = publish(tmp_path)
    path, taken = grown(tmp_path, earlier)

    assert all(taken)
    verify_parts(path, read_manifest(path, format=FORMAT, version=1))
    inodes = [
        [(folder / record.path).stat().st_ino for record in taken if record]
        for folder in (earlier, path)
    ]
    assert inodes[0] == inodes[1]


def test_a_damaged_part_is_not_taken_over(tmp_path: Path) -> None:
    earlier = publish(tmp_path)
    damaged = earlier / "data" / "part-00001.parquet"
    damaged.write_bytes(flipped(damaged.read_bytes(), 50))
    path, taken = grown(tmp_path, earlier)

    assert [record is None for record in taken] == [False, True, False]
    verify_parts(path, read_manifest(path, format=FORMAT, version=1))


def test_a_torn_part_in_staging_gives_way_to_the_one_that_is_taken_over(tmp_path: Path) -> None:
    earlier = publish(tmp_path)
    torn = tmp_path / ".staging" / "grown" / "data" / "part-00000.parquet"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"torn")
    path, taken = grown(tmp_path, earlier)

    assert all(taken)
    verify_parts(path, read_manifest(path, format=FORMAT, version=1))


def test_raw_bytes_are_written_once_and_torn_ones_anew(tmp_path: Path) -> None:
    staging = Staging(tmp_path, "abc")
    chunks = [memoryview(b"abc"), memoryview(b"de")]
    first = staging.write_raw("x.bin", chunks, 5)
    path = staging.path / first.path
    inode = path.stat().st_ino
    again = staging.write_raw("x.bin", chunks, 5)

    assert (again, path.stat().st_ino, path.read_bytes()) == (first, inode, b"abcde")
    path.write_bytes(b"torn")
    assert staging.write_raw("x.bin", chunks, 5) == first
    assert path.read_bytes() == b"abcde"
    final = staging.commit(tmp_path / "abc", [first], {**HEADER, "rows": 7})
    assert read_manifest(final, format=FORMAT, version=1)["rows"] == 7
