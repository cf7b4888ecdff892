"""A table whose numbers and dates are text is learned from as if they were not."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data.checking import ContractError
from data.contract import SpecError
from data.draft import draft_spec
from data.drift import baseline_of, drift_of
from data.snapshot import Snapshot, ingest
from data.sources import open_source

ROWS = 400


def amounts(seed: int = 0) -> np.ndarray:
    return np.round(np.exp(np.random.default_rng(seed).normal(7, 1, ROWS)), 2)


def table(seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    days = [f"{random.integers(1, 13)}/{random.integers(1, 29)}/2024" for _ in range(ROWS)]
    return pa.table(
        {
            "order_id": [f"{1000 + k:,}" for k in range(ROWS)],
            "price": [f"${amount:,.2f}" for amount in amounts(seed)],
            "share": [f"{value:.1f}%" for value in random.normal(10, 3, ROWS)],
            "zip": [f"{random.integers(10, 15)}345" for _ in range(ROWS)],
            "day": days,
        }
    )


def kept(source: Any, root: Path, **settings: Any) -> Snapshot:
    return ingest(source, name="orders", root=root, **settings)


def test_numbers_and_dates_in_text_are_numbers_and_dates(tmp_path: Path) -> None:
    snapshot = kept(table(), tmp_path)

    contract, profile = snapshot.contract, snapshot.profile
    assert (contract["price"].kind, contract["price"].format) == ("positive", "$1,234.5")
    assert (contract["share"].kind, contract["share"].format) == ("continuous", "1234.5%")
    assert (contract["day"].kind, contract["day"].format) == ("carry", "%m/%d/%Y")
    assert (contract["zip"].kind, contract["zip"].format) == ("categorical", "")
    assert contract["order_id"].kind == "key"
    assert "written as '$1,234.5'" in contract["price"].why
    assert snapshot.table()["price"].to_pylist() == amounts().tolist()
    assert snapshot.table()["day"].type == pa.date32()
    assert profile["price"].mean == pytest.approx(amounts().mean())


def test_text_from_csv_and_numbers_of_parquet_are_one_content(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    pa.csv.write_csv(table(), source)
    plain = table().set_column(1, "price", pa.array(amounts()))

    from_text, from_numbers = kept(source, tmp_path / "a"), kept(plain, tmp_path / "b")

    assert from_text.table()["price"].equals(from_numbers.table()["price"])


def test_a_cell_that_is_written_otherwise_leaves_a_new_column_text(tmp_path: Path) -> None:
    """However late it comes: rows are more than the sample that formats are found in."""
    prices = [f"${k % 50}" for k in range(20_000)] + ["call us"]
    source = pa.table({"price": prices, "x": np.arange(20_001) % 7 + 0.5})

    column = kept(source, tmp_path).contract["price"]

    assert (column.kind, column.format) == ("categorical", "")
    assert column.why.endswith("; but for a few cells written as '$1234.5'")


def test_stray_cells_are_null_where_a_person_says_so(tmp_path: Path) -> None:
    amounts_ = [str(k % 90) for k in range(500)]
    amounts_[7] = amounts_[400] = "Total"
    source = tmp_path / "t.csv"
    pa.csv.write_csv(pa.table({"a": amounts_, "b": np.arange(500) % 7 + 0.5}), source)
    assert "but for a few cells written as '1234.5'" in draft_spec(str(source), name="orders")

    said = {"a": {"kind": "continuous", "format": "1234.5", "unreadable": "null"}}
    snapshot = kept(source, tmp_path, overrides=said)

    assert snapshot.table()["a"].null_count == 2
    assert snapshot.manifest["counts"] == {"a.null": 2, "a.unreadable": 2}
    assert snapshot.contract["a"].nulls == "allow"


def test_later_rows_are_held_to_the_format(tmp_path: Path) -> None:
    kept(table(), tmp_path)
    later = table(seed=1)
    prices = later["price"].to_pylist()
    prices[3], prices[5], prices[7] = "12.50", "call us", "-"
    later = later.set_column(1, "price", pa.array(prices))

    with pytest.raises(ContractError) as raised:
        kept(later, tmp_path)

    (unreadable, null) = raised.value.breaches
    assert (unreadable.column, unreadable.code) == ("price", "unreadable")
    assert (unreadable.count, unreadable.rows) == (2, ("1,003", "1,005"))
    assert (null.code, null.count, null.rows) == ("null", 1, ("1,007",))
    assert "call us" not in str(raised.value)


def test_numbers_may_come_as_numbers_later(tmp_path: Path) -> None:
    first = kept(table(), tmp_path)
    later = table().set_column(1, "price", pa.array(amounts()))

    again = kept(later, tmp_path)

    assert again.fingerprint == first.fingerprint


def test_drift_is_told_of_what_the_text_says(tmp_path: Path) -> None:
    snapshot = kept(table(), tmp_path)
    baseline = baseline_of(snapshot)
    dearer = table(seed=1).set_column(
        1, "price", pa.array([f"${9 * amount:,.2f}" for amount in amounts(1)])
    )

    same = drift_of(open_source(table(seed=2)), snapshot, baseline)
    now = drift_of(open_source(dearer), snapshot, baseline)

    assert {c.column: c.verdict for c in same.columns}["price"] == "stable"
    assert {c.column: c.verdict for c in now.columns}["price"] == "drifted"
    assert not now.breaches


@pytest.mark.parametrize(
    "settings",
    [
        {"overrides": {"price": {"kind": "categorical", "other": True}}},
        {"overrides": {"price": {"dtype": "string"}}},
        {"label": "price"},
    ],
)
def test_what_a_person_says_is_text_stays_text(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    contract = kept(table(), tmp_path, **settings).contract

    assert (contract["price"].dtype, contract["price"].format) == ("string", "")


def test_a_person_may_say_the_format(tmp_path: Path) -> None:
    days = [f"{1 + k % 12}/{1 + k % 5}/2024" for k in range(ROWS)]  # either could be the day
    source = pa.table({"x": np.arange(ROWS) % 7 + 0.5, "day": days})

    assert not kept(source, tmp_path / "a").contract["day"].format
    said = kept(source, tmp_path / "b", overrides={"day": {"format": "%d/%m/%Y"}})
    assert said.table()["day"].to_pylist()[1].isoformat() == "2024-02-02"
    assert said.table()["day"].to_pylist()[6].isoformat() == "2024-02-07"


def test_a_format_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="column 'price': 'money' is no format"):
        kept(table(), tmp_path, overrides={"price": {"format": "money"}})


def test_the_draft_says_the_formats_and_leads_to_the_same_contract(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    pq.write_table(table().append_column("fee", pa.array(["$1,000"] * ROWS)), source)

    text = draft_spec(str(source), name="orders")

    drafted = tomllib.loads(text)["dataset"]["columns"]
    assert drafted["price"]["format"] == "$1,234.5"
    assert drafted["day"] == {"kind": "carry", "format": "%m/%d/%Y"}
    assert drafted["fee"] == {"kind": "ignore", "format": "$1,234.5"}
    found = kept(source, tmp_path / "a").contract
    assert kept(source, tmp_path / "b", overrides=drafted).contract.digest == found.digest


def test_thousands_alone_in_a_later_file_are_no_fractions(tmp_path: Path) -> None:
    def written(name: str, second: list[str]) -> Path:
        rows = [f"{1000 + 7 * k:,}\t{cell}" for k, cell in enumerate(second)]
        (tmp_path / name).write_text("\n".join(["people\tshare", *rows]) + "\n")
        return tmp_path / name

    kept(written("first.tsv", [f"{k % 9}.5" for k in range(300)]), tmp_path)
    later = kept(written("later.tsv", [str(k % 9) for k in range(300)]), tmp_path)

    assert later.contract["people"].format == "1,234.5"
    assert later.table()["people"].to_pylist()[:2] == [1000, 1007]
