"""A data set over time: the contract is inferred once, parts are shared, splits stay."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.snapshot
from data.checking import ContractError
from data.csv_dialect import CsvDialect
from data.formats import SourceError
from data.snapshot import Snapshot, ingest

ROWS = 900


def people(rows: int = ROWS) -> pa.Table:
    random = np.random.default_rng(0)  # the first rows of a longer table are a shorter one
    return pa.table(
        {
            "id": np.arange(rows),
            "age": random.uniform(18, 90, 3 * ROWS)[:rows],
            "city": [f"c{k % 5}" for k in range(rows)],
        }
    )


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.snapshot, "PART_ROWS", 300)


def inodes(snapshot: Snapshot) -> list[int]:
    return [part.path.stat().st_ino for part in snapshot.parts]


def test_a_grown_source_shares_the_parts_that_did_not_change(tmp_path: Path) -> None:
    before = ingest(people(700), name="p", root=tmp_path)
    after = ingest(people(1000), name="p", root=tmp_path)

    assert [part.rows for part in before.parts] == [300, 300, 100]
    assert [part.rows for part in after.parts] == [300, 300, 300, 100]
    assert inodes(after)[:2] == inodes(before)[:2]
    assert not set(inodes(after)[2:]) & set(inodes(before))
    after.verify()
    assert after.table().drop_columns("split").equals(people(1000))


def test_sharing_changes_no_byte(tmp_path: Path) -> None:
    ingest(people(700), name="p", root=tmp_path / "shared")
    shared = ingest(people(1000), name="p", root=tmp_path / "shared")
    contract = shared.contract
    alone = ingest(people(1000), name="p", root=tmp_path / "alone", contract=contract)

    assert shared.manifest == alone.manifest
    for one, other in zip(shared.parts, alone.parts, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_old_rows_keep_their_split(tmp_path: Path) -> None:
    before = ingest(people(700), name="p", root=tmp_path).table(columns=["id", "split"])
    after = ingest(people(1000), name="p", root=tmp_path).table(columns=["id", "split"])

    assert after.slice(0, 700).equals(before)


def test_another_split_shares_nothing(tmp_path: Path) -> None:
    before = ingest(people(), name="p", root=tmp_path)
    after = ingest(people(), name="p", root=tmp_path, split=(0.2, 0.2))

    assert not set(inodes(before)) & set(inodes(after))
    assert before.contract == after.contract


def test_a_damaged_part_is_not_shared(tmp_path: Path) -> None:
    before = ingest(people(700), name="p", root=tmp_path)
    damaged = before.parts[0].path
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    after = ingest(people(1000), name="p", root=tmp_path)

    after.verify()
    assert inodes(after)[0] != inodes(before)[0]
    assert inodes(after)[1] == inodes(before)[1]


def test_the_contract_is_inferred_once(tmp_path: Path) -> None:
    first = ingest(people(600), name="p", root=tmp_path)
    cities = pa.array(["c0"] * 980 + ["new"] * 20)
    grown = people(1000).set_column(2, "city", cities)
    second = ingest(grown, name="p", root=tmp_path)

    assert second.contract == first.contract
    assert second.manifest["counts"] == {"city.unknown": 20}


def test_a_renamed_column_is_found_out(tmp_path: Path) -> None:
    """RELIABILITY 2b, column missing or renamed."""
    ingest(people(), name="p", root=tmp_path)
    renamed = people().rename_columns(["id", "ages", "city"])

    with pytest.raises(ContractError, match=r"age: missing; did you mean 'ages'\?"):
        ingest(renamed, name="p", root=tmp_path)
    again = ingest(renamed, name="p", root=tmp_path, contract_version=2)
    assert (again.contract["ages"].kind, again.contract.version) == ("continuous", 2)


def test_a_source_that_broke_its_contract_froze_nothing(tmp_path: Path) -> None:
    doubled = pa.concat_tables([people(), people()])
    with pytest.raises(ContractError, match="duplicate key"):
        ingest(doubled, name="p", root=tmp_path, key="id")

    assert ingest(people(), name="p", root=tmp_path, key="id").rows == ROWS


def test_text_stays_text_when_a_csv_has_only_digits_in_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("zip,x\n" + "".join(f"W{k % 9},{k}.5\n" for k in range(100)))
    first = ingest(path, name="t", root=tmp_path)
    path.write_text("zip,x\n" + "".join(f"0{k % 9},{k}.5\n" for k in range(100)))

    assert first.contract["zip"].categories is not None
    with pytest.raises(ContractError, match=r"zip: 100 × unknown category"):
        ingest(path, name="t", root=tmp_path)


def test_the_dialect_of_a_csv_is_frozen(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"n;x\n" + b"".join(b"\xfc%d;%d,5\n" % (k, k) for k in range(50)))
    first = ingest(path, name="t", root=tmp_path)
    path.write_bytes(b"n;x\n" + b"".join(b"u%d;%d\n" % (k, k) for k in range(50)))
    second = ingest(path, name="t", root=tmp_path)

    assert first.contract.csv == second.contract.csv == CsvDialect("latin-1", ";", ",")
    path.write_text("n;x\nu;1.5\n")
    with pytest.raises(SourceError, match=r"has decimal '.', the contract was made with ','"):
        ingest(path, name="t", root=tmp_path)


def test_columns_of_the_spec_keep_their_type(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("zip,x\n" + "".join(f"0{k % 9},{k}.5\n" for k in range(100)))
    overrides = {"zip": {"kind": "categorical", "dtype": "string"}}
    snapshot = ingest(path, name="t", root=tmp_path, overrides=overrides)

    assert snapshot.contract["zip"].categories == tuple(f"0{k}" for k in range(9))


def test_extra_columns_are_ignored_and_listed_or_refused(tmp_path: Path) -> None:
    """RELIABILITY 2b, extra columns."""
    ingest(people(), name="p", root=tmp_path)
    ingest(people(), name="p", root=tmp_path, extra="refuse")
    wider = people().append_column("new", pa.nulls(ROWS, pa.string()))

    ingest(wider, name="p", root=tmp_path)
    listed = [path.read_text() for path in (tmp_path / "p" / ".index").glob("[0-9a-f]*.json")]
    assert any('"extra_columns": [\n  "new"\n ]' in text for text in listed)
    with pytest.raises(
        ContractError, match=r"new: not in the contract; add it to the contract"
    ):
        ingest(wider, name="p", root=tmp_path, extra="refuse")


@given(st.permutations(["id", "age", "city"]))
def test_the_order_of_columns_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """RELIABILITY 2b, reordered columns."""
    root = tmp_path_factory.mktemp("root")
    first = ingest(people(50), name="p", root=root)
    other = root / "t.parquet"
    pq.write_table(people(50).select(names), other)

    assert ingest(other, name="p", root=root).fingerprint == first.fingerprint


def test_no_rows_are_published_with_all_columns_where_the_contract_is_known(
    tmp_path: Path,
) -> None:
    """RELIABILITY 2b, empty set: a header without rows has no types; the contract has."""
    contract = ingest(people(), name="p", root=tmp_path).contract
    (tmp_path / "t.csv").write_text("id,age,city\n")
    empty = ingest(tmp_path / "t.csv", name="p", root=tmp_path, contract=contract)

    assert (empty.rows, len(empty.parts)) == (0, 1)
    assert empty.table().schema == ingest(people(), name="p", root=tmp_path).table().schema
    with pytest.raises(SourceError, match="has no rows; there is nothing to learn from"):
        ingest(tmp_path / "t.csv", name="q", root=tmp_path)


def test_equal_tables_from_two_formats_share_a_snapshot(tmp_path: Path) -> None:
    first = ingest(people(), name="p", root=tmp_path)
    pa.csv.write_csv(people(), tmp_path / "t.csv")

    assert ingest(tmp_path / "t.csv", name="p", root=tmp_path).path == first.path


def test_a_csv_of_every_kind_is_read_again_by_its_contract(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{k},2024-01-{k % 28 + 1:02d} 10:00:00,{k}.5,w{k % 3},true" for k in range(60)]
    for count in (50, 60):
        path.write_text("\n".join(["id,at,x,word,flag", *lines[:count]]) + "\n")
        snapshot = ingest(path, name="t", root=tmp_path)

    assert (snapshot.rows, snapshot.contract.timestamp) == (60, "at")
