import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.drift import Baseline, DriftReport, Tally, baseline_of, compare, drift_of, tallied
from data.publication import FormatError
from data.snapshot import Snapshot, ingest
from data.sources import open_source

ROWS = 4000
Columns = dict[str, Any]


def rows(seed: int = 0, count: int = ROWS) -> Columns:
    random = np.random.default_rng(seed)
    images = random.integers(0, 200, (count, 16), np.uint8)
    places = [np.flatnonzero(random.uniform(size=6) < 0.4) for _ in range(count)]
    return {
        "id": np.arange(count) + 10**6 * seed,
        "height": random.normal(170, 10, count),
        "income": random.lognormal(10, 1, count),
        "city": random.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1]),
        "gap": [None if u < 0.2 else u for u in random.uniform(size=count)],
        "image": pa.array([bytes(image) for image in images], pa.binary(16)),
        "gene_indices": pa.array(places, pa.list_(pa.int32())),
        "gene_counts": pa.array([np.ones(len(p)) for p in places], pa.list_(pa.int32())),
        "label": random.choice(["u", "v"], count),
    }


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return ingest(pa.table(rows()), name="t", root=tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def baseline(snapshot: Snapshot) -> Baseline:
    return baseline_of(snapshot)


def drift(
    snapshot: Snapshot, baseline: Baseline, count: int = ROWS, **changed: Any
) -> DriftReport:
    table = pa.table({**rows(1, count), **changed})
    return drift_of(open_source(table), snapshot, baseline)


def verdicts(report: DriftReport) -> dict[str, str]:
    return {c.column: c.verdict for c in report.columns if c.verdict != "stable"}


MEASURED = {
    "height",
    "income",
    "gap",
    "city",
    "label",
    "image.mean",
    "image.stddev",
    "gene_counts.total",
    "gene_counts.seen",
}


@pytest.mark.parametrize("count", [5, 100, ROWS])
def test_rows_of_the_same_kind_are_stable(
    snapshot: Snapshot, baseline: Baseline, count: int
) -> None:
    """However few: what chance gives is no drift."""
    report = drift(snapshot, baseline, count)

    assert (report.verdict, report.rows, verdicts(report)) == ("stable", count, {})
    assert {column.column for column in report.columns} == MEASURED


RANDOM = np.random.default_rng(2)
CHANGES: dict[str, Columns] = {
    "a shifted number": {"height": RANDOM.normal(180, 10, ROWS)},
    "a wider number": {"height": RANDOM.normal(170, 25, ROWS)},
    "another unit": {"income": RANDOM.lognormal(10, 1, ROWS) * 1000},
    "other shares": {"city": RANDOM.choice(["a", "b", "c"], ROWS, p=[0.1, 0.3, 0.6])},
    "more nulls": {"gap": [None if u < 0.5 else u for u in RANDOM.uniform(size=ROWS)]},
    "another label": {"label": ["u"] * ROWS},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_large_change_is_drift_of_that_column(
    snapshot: Snapshot, baseline: Baseline, what: str
) -> None:
    report = drift(snapshot, baseline, **CHANGES[what])

    assert verdicts(report) == dict.fromkeys(CHANGES[what], "drifted")
    assert report.verdict == "drifted"


def test_a_small_change_is_one_to_watch(snapshot: Snapshot, baseline: Baseline) -> None:
    report = drift(snapshot, baseline, height=RANDOM.normal(174, 10, ROWS))

    assert (report.verdict, verdicts(report)) == ("watch", {"height": "watch"})


def test_darker_images_have_drifted(snapshot: Snapshot, baseline: Baseline) -> None:
    images = [bytes(i) for i in RANDOM.integers(0, 120, (ROWS, 16), np.uint8)]
    report = drift(snapshot, baseline, image=pa.array(images, pa.binary(16)))

    assert verdicts(report) == {"image.mean": "drifted", "image.stddev": "drifted"}


@pytest.mark.parametrize(("share", "verdict"), [(0.01, "watch"), (0.08, "drifted")])
def test_categories_never_seen_are_counted_and_not_named(
    snapshot: Snapshot, baseline: Baseline, share: float, verdict: str
) -> None:
    fresh = int(share * ROWS)
    cities = RANDOM.choice(["a", "b", "c"], ROWS, p=[0.6, 0.3, 0.1]).tolist()
    report = drift(snapshot, baseline, city=["canary"] * fresh + cities[fresh:])
    city = next(column for column in report.columns if column.column == "city")

    assert (city.verdict, city.unseen) == (verdict, share)
    assert "canary" not in json.dumps(report.to_mapping())


def test_a_missing_column_is_drift_and_a_breach(snapshot: Snapshot, baseline: Baseline) -> None:
    table = pa.table(rows(1)).rename_columns(
        [{"height": "heigth"}.get(name, name) for name in rows(1)]
    )
    report = drift_of(open_source(table), snapshot, baseline)

    assert [str(breach) for breach in report.breaches] == [
        "height: missing; did you mean 'heigth'?"
    ]
    height = next(column for column in report.columns if column.column == "height")
    assert (height.verdict, height.why) == ("drifted", "the column is missing")
    assert report.to_mapping()["breaches"] == ["height: missing; did you mean 'heigth'?"]


def test_counts_of_parts_add_up_to_counts_of_the_whole(
    snapshot: Snapshot, baseline: Baseline
) -> None:
    whole = snapshot.table("test")
    at_once = tallied([whole], baseline)
    halves = [tallied([part], baseline) for part in (whole.slice(0, 99), whole.slice(99))]
    merged = tuple(one.merge(other) for one, other in zip(*halves, strict=True))

    assert merged == at_once
    assert {tally.rows for tally in at_once} == {len(whole)}


def test_a_baseline_survives_json(baseline: Baseline) -> None:
    read = Baseline.from_json(baseline.to_json())

    assert read == baseline
    with pytest.raises(FormatError, match="the baseline is 'unmarked' version 0"):
        Baseline.from_json("{}")


@given(
    st.lists(st.floats(-9, 9) | st.just(float("nan")), max_size=30),
    st.lists(st.floats(-9, 9), min_size=1, max_size=6, unique=True).map(sorted),
)
def test_every_value_is_in_the_bin_between_its_edges(
    values: list[float], edges: list[float]
) -> None:
    counted = Tally(name="x", edges=tuple(edges)).of(np.array(values, float))
    bounds = [-np.inf, *edges, np.inf]
    expected = [sum(low < v <= high for v in values) for low, high in pairwise(bounds)]

    assert list(counted.counts) == expected
    assert counted.nulls == sum(np.isnan(values))


def test_chance_is_called_drift_once_in_a_thousand_at_most() -> None:
    """1,000 pairs of samples of the same numbers, two statistics at 1e-3 each: 2 alarms are
    expected, 6 are within 3.29 standard errors of √2. See Note [Statistical tests]."""
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(1000):
        before = Tally(name="x", edges=tuple(np.linspace(-2, 2, 30)))
        sizes = random.integers(20, 3000, 2)
        one, other = (before.of(random.normal(size=size)) for size in sizes)
        alarms += compare(one, other).verdict != "stable"

    assert alarms <= 6


def test_nothing_to_compare_with_is_no_drift() -> None:
    empty = Tally(name="x", edges=(0.0,)).empty()
    some = empty.of(np.array([1.0, -1.0]))

    assert compare(empty, some).verdict == "stable"


def test_the_baseline_is_of_train_rows(tmp_path: Path) -> None:
    table = pa.table({"id": np.arange(1000), "x": np.arange(1000) / 7})
    snapshot = ingest(table, name="t", root=tmp_path)

    assert baseline_of(snapshot).tallies[0].rows == snapshot.split_rows["train"]


def test_new_rows_need_not_say_which_of_them_train(tmp_path: Path) -> None:
    said = pa.array(["train", "test"] * (ROWS // 2))
    parted = ingest(pa.table({**rows(), "split": said}), name="t", root=tmp_path)

    report = drift_of(open_source(pa.table(rows(1))), parted, baseline_of(parted))

    assert not report.breaches
