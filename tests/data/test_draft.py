import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.contract import Contract
from data.draft import draft_spec
from data.formats import SourceError
from data.snapshot import ingest

ROWS = 400
RANDOM = np.random.default_rng(0)


def contract_of(text: str, root: Path) -> Contract:
    """What the spec leads to, as the pipeline would ingest it."""
    dataset: dict[str, Any] = tomllib.loads(text)["dataset"]
    settings = {k: dataset[k] for k in ("key", "label", "csv", "query") if k in dataset}
    return ingest(
        dataset["source"],
        name=dataset["name"],
        root=root,
        overrides=dataset["columns"],
        split=(dataset["split"]["valid"], dataset["split"]["test"]),
        **settings,
    ).contract


def table() -> pa.Table:
    age = RANDOM.uniform(18, 90, ROWS)
    age[3] = np.nan
    return pa.table(
        {
            "customer id": np.arange(ROWS),
            "code": [f"k{k}" for k in range(ROWS)],
            "age": age,
            "city": RANDOM.choice(["a", 'b "quoted"', "c\n"], ROWS),
            "level": RANDOM.integers(1, 6, ROWS),
            "image": pa.array(
                [bytes(i) for i in RANDOM.integers(0, 255, (ROWS, 9), np.uint8)]
            ).cast(pa.binary(9)),
            "same": [1] * ROWS,
            "label": RANDOM.integers(0, 2, ROWS),
        }
    )


def test_a_draft_explains_each_guess(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    text = draft_spec(str(tmp_path / "t.parquet"), name="t")

    lines = text.splitlines()
    assert lines[0] == f"# {tmp_path}/t.parquet: 400 rows, 8 columns."
    for line in (
        'key = "customer id" # it counts the rows one by one; or: code',
        'label = "label" # its name says so; or: level, city',
        '"customer id" = { kind = "key" } # it counts the rows one by one',
        'code = { kind = "ignore" } # text that is different in nearly every row',
        'age = { kind = "continuous", nulls = "allow" } # numbers',
        'city = { kind = "categorical", nulls = "refuse", '
        'categories = ["a", "b \\"quoted\\"", "c\\n"] } # text with 3 values',
        'level = { kind = "ordinal", nulls = "refuse", categories = [1, 2, 3, 4, 5] } '
        "# integers with 5 values",
        'image = { kind = "pixels", nulls = "refuse", height = 3, width = 3, channels = 1, '
        "max = 255 } # bytes whose number is a square: taken to be a grey image",
        'same = { kind = "ignore" } # every cell that is not null holds the same value',
    ):
        assert line in lines
    assert any(line.startswith("# age: 1 null; from 18.") for line in lines)


def test_a_draft_leads_to_the_contract_that_was_guessed(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    text = draft_spec(str(tmp_path / "t.parquet"), name="t")
    guessed = ingest(tmp_path / "t.parquet", name="t", root=tmp_path / "guessed").contract

    assert contract_of(text, tmp_path / "drafted").digest == guessed.digest


@settings(max_examples=30)  # each writes a file
@given(st.text(min_size=1), st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_any_names_and_categories_survive(
    tmp_path_factory: pytest.TempPathFactory, name: str, labels: list[str]
) -> None:
    assume(name.lower() not in ("id", "x") and "\0" not in name)
    folder = tmp_path_factory.mktemp("t")
    columns = {name: labels * 4, "x": np.arange(8) * 1.5}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    dataset = tomllib.loads(draft_spec(str(folder / "t.parquet"), name="t"))["dataset"]

    column = dataset["columns"][name]
    assert column["kind"] in ("binary", "label", "ignore")
    if column["kind"] == "binary":
        assert column["categories"] == sorted(labels)


def test_the_dialect_of_a_csv_is_in_the_draft(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(
        b"n;x\n" + b"".join(b"\xfc%d;%d,5\n" % (k % 3, k) for k in range(50))
    )
    text = draft_spec(str(tmp_path / "t.csv"), name="t")

    dialect = '{ encoding = "latin-1", delimiter = ";", decimal = ",", header = true }'
    assert f"csv = {dialect} # as found; later files are read alike" in text.splitlines()
    assert contract_of(text, tmp_path)["x"].kind == "continuous"


def test_what_was_taken_for_a_row_and_for_gaps_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.data"
    path.write_text("".join(f"{k % 7}.5 {k} {'?' if k == 3 else k / 2}\n" for k in range(50)))
    text = draft_spec(str(path), name="t")

    assert 'delimiter = " ", decimal = ".", header = false, nulls = ["?"] }' in text
    assert "columns are f0, f1, ...: header = true if it has names" in text
    assert "nulls stand in columns of numbers: nulls = [] if they are no gaps" in text
    assert contract_of(text, tmp_path)["f2"].nulls == "allow"


def test_without_key_and_label_candidates_are_named(tmp_path: Path) -> None:
    columns = {
        "code": [f"k{k}" for k in range(50)],
        "size": ["s", "m", "l", "m", "s"] * 10,
        "x": RANDOM.normal(size=50),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    lines = draft_spec(str(tmp_path / "t.parquet"), name="t").splitlines()

    assert "# different in every row: code" in lines
    assert "# no label; one to probe the features with, never encoded, could be size" in lines


def test_infinite_cells_are_pointed_out(tmp_path: Path) -> None:
    columns = {"x": [float("inf"), *RANDOM.normal(size=50)], "y2": RANDOM.normal(size=51)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")

    assert "# x: 1 infinite: they are refused, or null with infinite = 'null'; from" in (
        draft_spec(str(tmp_path / "t.parquet"), name="t")
    )


def test_no_secret_is_in_the_first_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^nowhere.db does not exist"):
        draft_spec(
            "sqlite:///nowhere.db?password=canary", name="t", query="select 1 order by 1"
        )


@pytest.mark.parametrize(
    "name", ["adult_train", "penguins", "bow_reuters395_sparse", "mnist_10k"]
)
def test_drafts_of_real_data_run(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / f"{name}.parquet"
    text = draft_spec(str(source), name=name)
    guessed = ingest(source, name=name, root=tmp_path / "guessed").contract

    assert contract_of(text, tmp_path / "drafted").digest == guessed.digest
