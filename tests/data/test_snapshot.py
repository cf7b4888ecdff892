import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.snapshot
from data.checking import ContractError
from data.contract import Contract, SpecError
from data.formats import SourceError
from data.preprocessing import fit_preprocessor
from data.publication import FormatError
from data.snapshot import Snapshot, find_snapshot, ingest, open_snapshot
from data.splits import hash_keys, split_of

RANDOM = np.random.default_rng(0)


def people(rows: int = 1000) -> pa.Table:
    return pa.table(
        {
            "id": np.arange(100, 100 + rows),
            "age": RANDOM.integers(18, 90, rows),
            "height": RANDOM.normal(170, 10, rows),
            "city": [f"c{value}" for value in RANDOM.integers(0, 5, rows)],
            "label": RANDOM.integers(0, 2, rows),
            "note": [f"note {row}" for row in range(rows)],
        }
    )


def published(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(people(), tmp_path / "people.parquet")
    return tmp_path / "people.parquet"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.snapshot, "PART_ROWS", 300)


def test_a_snapshot_holds_every_row_once_in_order(
    source: Path, tmp_path: Path, small_parts: None
) -> None:
    """RELIABILITY I6."""
    snapshot = ingest(source, name="people", root=tmp_path)
    table, original = snapshot.table(), pq.read_table(source)

    assert [part.rows for part in snapshot.parts] == [300, 300, 300, 100]
    assert table.drop_columns("split").equals(original.drop_columns("note"))
    assert (
        table["split"].to_pylist()
        == split_of(hash_keys(original["id"]), valid=0.1, test=0.1).tolist()
    )


def test_its_folder_is_as_the_design_says(source: Path, tmp_path: Path) -> None:
    snapshot = ingest(source, name="people", root=tmp_path)

    assert snapshot.path == tmp_path / "people" / snapshot.fingerprint
    assert list(published(snapshot.path)) == [
        "contract.json",
        "data/part-00000.parquet",
        "manifest.json",
        "profile.json",
    ]
    assert pq.read_table(snapshot.path / "data").num_rows == 1000
    assert sum(snapshot.split_rows.values()) == snapshot.rows == 1000
    assert snapshot.profile["age"].rows == 1000
    assert (snapshot.key, snapshot.contract.label) == ("id", "label")
    snapshot.verify()


def test_ingesting_again_is_finding(source: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"name": "people", "root": tmp_path, "split": (0.2, 0.1)}
    assert find_snapshot(source, **settings) is None
    first = ingest(source, **settings)
    again = ingest(source, **settings)

    assert (first.reused, again.reused) == (False, True)
    assert again.path == first.path
    found = find_snapshot(source, **settings)
    assert found is not None
    assert found.path == first.path


def test_other_settings_or_bytes_are_another_snapshot(source: Path, tmp_path: Path) -> None:
    fingerprints = {
        ingest(source, name="people", root=tmp_path, **settings).fingerprint
        for settings in (
            {},
            {"split": (0.2, 0.1)},
            {"label": "city"},
            {"overrides": {"age": {"min": 0}}},
        )
    }
    pq.write_table(people(), source)
    fingerprints.add(ingest(source, name="people", root=tmp_path).fingerprint)

    assert len(fingerprints) == 5


def test_the_fingerprint_is_of_content_and_not_of_bytes(
    source: Path, tmp_path: Path, small_parts: None
) -> None:
    table = pq.read_table(source)
    pq.write_table(table, tmp_path / "other.parquet", row_group_size=77, compression="none")
    pa.csv.write_csv(table, tmp_path / "other.csv")
    shuffled = table.select(table.column_names)
    snapshots = [
        ingest(each, name="people", root=tmp_path / str(k))
        for k, each in enumerate(
            (source, tmp_path / "other.parquet", tmp_path / "other.csv", shuffled)
        )
    ]

    assert len({snapshot.fingerprint for snapshot in snapshots}) == 1
    contents = [published(snapshot.path / "data") for snapshot in snapshots]
    assert all(content == contents[0] for content in contents)


def test_two_sources_with_the_same_content_share_a_snapshot(
    source: Path, tmp_path: Path
) -> None:
    pa.csv.write_csv(pq.read_table(source), tmp_path / "other.csv")
    one = ingest(source, name="people", root=tmp_path)
    other = ingest(tmp_path / "other.csv", name="people", root=tmp_path)

    assert one.path == other.path


def test_rows_keep_their_split_when_rows_are_added(tmp_path: Path) -> None:
    table = people()
    before = ingest(table.slice(0, 600), name="a", root=tmp_path).table(columns=["id", "split"])
    after = ingest(table, name="a", root=tmp_path).table(columns=["id", "split"])

    assert after.slice(0, 600).equals(before)


def test_without_a_key_rows_are_named_by_file_and_position(
    source: Path, tmp_path: Path
) -> None:
    pq.write_table(pq.read_table(source).drop_columns("id"), source)
    snapshot = ingest(source, name="people", root=tmp_path)

    assert snapshot.key == "row_id"
    ids = snapshot.table(columns=["row_id"])["row_id"].to_pylist()
    assert ids == [f"people.parquet:{row}" for row in range(1000)]


def test_batches_are_the_table_cut_anew(
    source: Path, tmp_path: Path, small_parts: None
) -> None:
    snapshot = ingest(source, name="people", root=tmp_path)

    for split in (None, "train", "test"):
        whole = snapshot.table(split, ["id", "age"])
        batches = list(snapshot.batches(64, split=split, columns=["id", "age"]))
        assert pa.Table.from_batches(batches).equals(whole)
        assert {len(batch) for batch in batches[:-1]} == {64}


def test_a_preprocessor_is_fitted_on_train_rows_alone(source: Path, tmp_path: Path) -> None:
    snapshot = ingest(source, name="people", root=tmp_path)
    heights = snapshot.table("train", ["height"])["height"].to_numpy()
    column = fit_preprocessor(snapshot).columns[1]

    assert column.name == "height"
    assert column.shift == pytest.approx(heights.mean())
    assert column.scale == pytest.approx(heights.std())


OPERATIONS = ("fsync", "link", "rename", "replace")


def test_kill_9_in_ingest_leaves_all_or_nothing(
    source: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2a: the snapshot is absent or complete; a rerun gives the same bytes."""
    monkeypatch.setenv("LATENTS_QUARANTINE", "off")  # one more process for each fork
    expected = published(ingest(source, name="people", root=tmp_path / "whole").path)
    for call in range(1, 100):
        root = tmp_path / str(call)
        child = os.fork()
        if child == 0:
            try:
                _die_before(call)
                ingest(source, name="people", root=root)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        for folder in (root / "people").glob("[!.]*"):
            assert published(folder) == expected
        assert published(ingest(source, name="people", root=root).path) == expected
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        pytest.fail("no run came to its end")
    assert call > 15


def _die_before(call: int) -> None:
    calls = 0

    def counted(name: str) -> Any:
        operation = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return wrapper

    for name in OPERATIONS:
        setattr(os, name, counted(name))


def test_a_source_that_breaks_its_contract_leaves_nothing(source: Path, tmp_path: Path) -> None:
    contract = ingest(source, name="people", root=tmp_path / "a").contract
    table = pq.read_table(source)
    bad = table.set_column(1, "age", pa.nulls(1000, pa.int64())).drop_columns("city")

    with pytest.raises(ContractError) as caught:
        ingest(bad, name="people", root=tmp_path / "b", contract=contract)
    codes = [(breach.column, breach.code) for breach in caught.value.breaches]
    assert codes == [("age", "null"), ("city", "missing_column")]
    assert [path for path in (tmp_path / "b").rglob("*") if path.is_file()] == []


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    table = people()
    ids = pa.array([100, *table["id"].to_pylist()[:-1]])

    with pytest.raises(ContractError, match=r"id: 1 × duplicate key \(rows number 1\)"):
        ingest(table.set_column(0, "id", ids), name="p", root=tmp_path, key="id")


def test_what_a_policy_lets_pass_is_counted_in_the_manifest(tmp_path: Path) -> None:
    heights = pa.array([None, float("nan"), *RANDOM.normal(size=98)])
    snapshot = ingest(pa.table({"height": heights}), name="p", root=tmp_path)

    assert snapshot.manifest["counts"] == {"height.null": 2}


EMPTY = {
    "an empty table": pa.table({"x": pa.array([], pa.float64())}),
    "no usable column": pa.table({"x": [1.0, 1.0], "id": [1, 2]}),
}


@pytest.mark.parametrize("what", EMPTY)
def test_nothing_to_learn_from_is_refused(tmp_path: Path, what: str) -> None:
    """RELIABILITY 2b, empty set."""
    message = {"an empty table": "has no rows", "no usable column": "has no usable column"}[
        what
    ]

    with pytest.raises(SourceError, match=message):
        ingest(EMPTY[what], name="p", root=tmp_path)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")

    with pytest.raises(SourceError, match=r"t.csv has no rows; there is nothing to learn from"):
        ingest(tmp_path / "t.csv", name="p", root=tmp_path)


@pytest.mark.parametrize("name", ["../p", "a/b", "", "P"])
def test_a_name_that_could_leave_its_folder_is_refused(
    source: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        ingest(source, name=name, root=tmp_path)


def test_a_contract_stands_alone(source: Path, tmp_path: Path) -> None:
    contract = ingest(source, name="people", root=tmp_path).contract

    with pytest.raises(SpecError, match="a contract says it all"):
        ingest(source, name="people", root=tmp_path, contract=contract, key="id")


def test_a_damaged_part_is_refused_on_reading(source: Path, tmp_path: Path) -> None:
    snapshot = ingest(source, name="people", root=tmp_path)
    part = snapshot.parts[0].path
    content = bytearray(part.read_bytes())
    content[200] ^= 1
    part.write_bytes(content)

    with pytest.raises(FormatError, match=r"part-00000.parquet is damaged"):
        open_snapshot(snapshot.path).table()
    with pytest.raises(FormatError, match="is not the file that was published"):
        snapshot.verify()


def test_a_lost_snapshot_is_made_again(source: Path, tmp_path: Path) -> None:
    first = ingest(source, name="people", root=tmp_path)
    before = published(first.path)
    shutil.rmtree(first.path)

    assert published(ingest(source, name="people", root=tmp_path).path) == before


@settings(max_examples=25)  # each is published, durably
@given(
    st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=2, max_size=9
    )
)
def test_what_is_stored_is_what_came_in(
    tmp_path_factory: pytest.TempPathFactory, vectors: list[list[float]]
) -> None:
    table = pa.table(
        {"v": pa.array(vectors, pa.list_(pa.float32())), "n": RANDOM.normal(size=len(vectors))}
    )
    snapshot = ingest(
        table,
        name="v",
        root=tmp_path_factory.mktemp("root"),
        overrides={"v": {"kind": "vector"}},
    )

    assert snapshot.table()["v"].to_pylist() == vectors


REAL = {
    "adult_train": {"continuous": 3, "positive": 1, "count": 2, "binary": 2, "categorical": 7},
    "adult_test": {"continuous": 3, "positive": 1, "count": 2, "binary": 2, "categorical": 7},
    "bank_marketing": {
        "label": 1,
        "binary": 4,
        "categorical": 6,
        "count": 2,
        "ordinal": 1,
        "continuous": 7,
    },
    "binarized_mnist_valid": {"pixels": 1, "label": 1, "ignore": 1},
    "bow_reuters395_sparse": {"count": 1, "ignore": 1, "key": 1},
    "covertype": {"continuous": 9, "count": 1, "binary": 44, "ordinal": 1},
    "diamonds": {"continuous": 5, "positive": 2, "categorical": 3},
    "freyface": {"pixels": 1, "key": 1},
    "mnist_10k": {"pixels": 1, "label": 1},
    "mnist_test": {"pixels": 1, "label": 1},
    "nycflights13_flights": {
        "ignore": 1,
        "continuous": 11,
        "positive": 2,
        "categorical": 4,
        "timestamp": 1,
    },
    "penguins": {"categorical": 2, "continuous": 4, "binary": 1, "ordinal": 1},
    "sc_mouse_bladder_sparse": {"count": 1, "ignore": 1, "label": 1},
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_are_understood(name: str, shared_data: Path, tmp_path: Path) -> None:
    """One command with nothing but the file: every kind is a guess that holds up."""
    snapshot: Snapshot = ingest(shared_data / f"{name}.parquet", name=name, root=tmp_path)
    kinds: dict[str, int] = {}
    for column in snapshot.contract.columns:
        kinds[column.kind] = kinds.get(column.kind, 0) + 1
        assert column.why

    assert kinds == REAL[name]
    assert Contract.from_json(snapshot.contract.to_json()) == snapshot.contract
    preprocessor = fit_preprocessor(snapshot)
    table = snapshot.table("test")
    encoded = preprocessor.transform(table)
    assert encoded.x.shape == (snapshot.split_rows["test"], preprocessor.features)
    assert preprocessor.inverse(encoded.x).num_rows == len(table)


def test_a_column_that_splits_the_rows_is_followed(tmp_path: Path) -> None:
    said = ["test" if row % 4 == 0 else "train" for row in range(1000)]
    table = people().append_column("split", pa.array(said))

    snapshot = ingest(table, name="people", root=tmp_path)

    assert snapshot.contract["split"].kind == "split"
    kept = np.array(snapshot.table()["split"].to_pylist())
    np.testing.assert_array_equal(kept == "test", np.array(said) == "test")
    assert 0 < snapshot.split_rows["valid"] < 150  # the hash takes it from the train rows


def test_without_rows_nothing_is_split(tmp_path: Path) -> None:
    table = people().append_column("split", pa.array(["train", "test"] * 500))
    first = ingest(table, name="people", root=tmp_path)

    later = ingest(table.slice(0, 0), name="people", root=tmp_path, contract=first.contract)

    assert later.split_rows == {"train": 0, "valid": 0, "test": 0}
    assert later.table().schema == first.table().schema


def test_a_column_of_any_name_splits_the_rows_where_the_spec_says_so(tmp_path: Path) -> None:
    said = pa.array(np.tile(["train", "val", "test", "train"], 250))
    table = people().append_column("fold", said)

    snapshot = ingest(
        table, name="people", root=tmp_path, overrides={"fold": {"kind": "split"}}
    )

    assert snapshot.split_rows == {"train": 500, "valid": 250, "test": 250}
    assert "fold" not in snapshot.table().column_names


@pytest.mark.parametrize("said", [["train", "south"] * 500, ["test"] * 999 + ["val"]])
def test_a_column_cannot_split_by_other_words(said: list[str], tmp_path: Path) -> None:
    table = people().append_column("fold", pa.array(said))

    with pytest.raises(SpecError, match="each must be one of train, training"):
        ingest(table, name="p", root=tmp_path, overrides={"fold": {"kind": "split"}})


def test_the_first_source_must_say_of_every_row_what_it_is_for(tmp_path: Path) -> None:
    table = people().append_column("fold", pa.array([None, *["train", "test"] * 499, "test"]))

    with pytest.raises(ContractError) as refused:
        ingest(table, name="p", root=tmp_path, overrides={"fold": {"kind": "split"}})

    codes = [(breach.code, breach.count) for breach in refused.value.breaches]
    assert codes == [("null_split", 1)]


def test_a_later_source_must_say_of_every_row_what_it_is_for(tmp_path: Path) -> None:
    table = people().append_column("split", pa.array(["train", "test"] * 500))
    ingest(table, name="people", root=tmp_path)
    said = ["train", None, "holdout", *["test"] * 997]

    with pytest.raises(ContractError) as refused:
        ingest(people().append_column("split", pa.array(said)), name="people", root=tmp_path)

    codes = [(breach.code, breach.count) for breach in refused.value.breaches]
    assert codes == [("unknown_category", 1), ("null_split", 1)]


@pytest.mark.parametrize("cells", [RANDOM.normal(size=1000), ["north", "south"] * 500])
def test_a_column_named_split_that_is_none_is_left_out_with_a_reason(
    cells: Any, tmp_path: Path
) -> None:
    snapshot = ingest(
        people().append_column("split", pa.array(cells)), name="people", root=tmp_path
    )

    assert snapshot.contract["split"].kind == "ignore"
    assert "rename it" in snapshot.contract["split"].why
    assert set(snapshot.split_rows) == {"train", "valid", "test"}


@pytest.mark.parametrize("kind", ["key", "label", "carry"])
@pytest.mark.parametrize(
    "name", ["z_mean_003", "z_sample_0", "model_version", "event_timestamp"]
)
def test_no_column_travels_along_under_the_name_of_a_feature(
    name: str, kind: str, tmp_path: Path
) -> None:
    table = people().append_column(name, pa.array([f"r{n}" for n in range(1000)]))

    with pytest.raises(SpecError, match=f"{name!r} cannot be of kind"):
        ingest(
            table.drop_columns(["id", "label"]),
            name="people",
            root=tmp_path,
            overrides={name: {"kind": kind}},
        )
