"""Drift: found where rows have moved, and not where they are others of the same kind."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from data.drift import column_drift, ks_and_wasserstein, ks_limit, population_stability
from data.snapshot import Snapshot, ingest

OVERRIDES = {
    "n": {"kind": "continuous"},
    "c": {"kind": "categorical", "categories": ["a", "b", "c", "new"]},
    "v": {"kind": "vector"},
}


def snapshot(root: Path, seed: int, *, moved: str = "", rows: int = 4000) -> Snapshot:
    random = np.random.default_rng(seed)
    n = random.normal(size=rows) + 0.5 * (moved == "n")
    if moved == "nulls":
        n[: rows // 5] = np.nan
    c = random.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2])
    if moved == "c":
        c[: rows // 30] = "new"
    v = random.normal(size=(rows, 3)).astype(np.float32)
    v[:, 2] *= 3 if moved == "v" else 1
    image = random.integers(0, 200 if moved == "image" else 256, (rows, 4), dtype=np.uint8)
    table = pa.table(
        {
            "id": np.arange(rows) + seed * rows,
            "n": pa.array(n, from_pandas=True),
            "c": c,
            "v": pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), 3),
            "image": pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), 4),
            "y": random.integers(0, 3, rows) // (2 if moved == "y" else 1),
        }
    )
    overrides = {**OVERRIDES, "n": {"kind": "continuous", "nulls": "allow"}}
    overrides["image"] = {"kind": "pixels", "height": 2, "width": 2, "channels": 1, "max": 255}
    return ingest(table, name="t", root=root, key="id", label="y", overrides=overrides)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_rows_of_the_same_kind_have_not_drifted(tmp_path: Path, seed: int) -> None:
    drifts = column_drift(snapshot(tmp_path, 0), snapshot(tmp_path, seed))

    assert [drift.name for drift in drifts] == ["n", "c", "v", "image", "y"]
    assert not any(drift.drifted for drift in drifts)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_rows_do_not_drift_by_chance(tmp_path: Path, seed: int) -> None:
    drifts = column_drift(snapshot(tmp_path, 0), snapshot(tmp_path, seed, rows=60))

    assert not any(drift.drifted for drift in drifts)


@pytest.mark.parametrize("moved", ["n", "c", "v", "image", "y"])
def test_a_column_that_moved_is_named_and_no_other(tmp_path: Path, moved: str) -> None:
    drifts = column_drift(snapshot(tmp_path, 0), snapshot(tmp_path, 1, moved=moved))

    assert [drift.name for drift in drifts if drift.drifted] == [moved]


def test_nulls_and_new_categories_are_counted(tmp_path: Path) -> None:
    reference = snapshot(tmp_path, 0)

    nulls = column_drift(reference, snapshot(tmp_path, 1, moved="nulls"))[0]
    new = column_drift(reference, snapshot(tmp_path, 1, moved="c"))[1]

    assert nulls.drifted
    assert nulls.null_share == pytest.approx((0.0, 0.2))
    assert (new.new_categories, new.new_share) == (1, 133 / 4000)


def test_a_snapshot_has_not_drifted_from_itself(tmp_path: Path) -> None:
    same = snapshot(tmp_path, 0)

    drifts = column_drift(same, same, split=None)

    assert all(drift.distance == 0 and drift.ks in {0, None} for drift in drifts)


def test_gap_and_area_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=300), random.normal(0.4, 2, 170).round(1)

    gap, area = ks_and_wasserstein(one, other)

    assert gap == pytest.approx(stats.ks_2samp(one, other).statistic)
    assert area == pytest.approx(stats.wasserstein_distance(one, other))
    assert ks_and_wasserstein(one, other[:0]) == (None, None)


def test_the_limits_are_those_of_chance_where_rows_are_few() -> None:
    few, many = np.array([10, 10, 10]), np.array([10**6, 10**6, 10**6])

    assert population_stability(many, many) == (0.0, 0.2)
    limit = population_stability(few, few)[1]
    assert limit == pytest.approx(stats.chi2.ppf(0.999, 2) * 2 / 30, rel=0.03)
    assert ks_limit(10**6, 10**6) == 0.1
    assert ks_limit(20, 20) == pytest.approx(stats.kstwobign.ppf(0.999) * 0.1**0.5, rel=0.01)
