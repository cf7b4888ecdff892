from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.contract import UnknownNameError
from data.publications import (
    difference,
)
from tests.data.published import SOME, Latents, published


def test_equal_features_in_another_order_are_the_same(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)
    other = published(tmp_path, dict(reversed(SOME.items())), publication="two")

    found = difference(one, other, key="id")
    assert found.same
    assert (found.rows, found.changed, dict(found.columns)) == ((4, 4), 0, {})


@pytest.mark.parametrize("layout", ["wide", "vector"])
def test_rows_and_columns_that_differ_are_told(tmp_path: Path, layout: str) -> None:
    changed = {"b": (3, 4.5), "c": (5, 6), "d": (float("nan"), 8), "e": (9, 9)}
    one = published(tmp_path, SOME, layout=layout)
    other = published(tmp_path, changed, publication="two", version=2, layout=layout, city="y")

    found = difference(one, other, key="id")
    assert not found.same
    assert (found.added, found.removed, found.changed) == (1, 1, 3)
    assert found.columns["city"] == 1.0
    assert found.columns["model_version"] == 1.0
    if layout == "wide":
        assert (found.columns["z_mean_000"], found.columns["z_mean_001"]) == (np.inf, 0.5)
    else:
        assert found.columns["z_mean"] == np.inf
    assert found.manifest == {"model_version": (1, 2)}


def test_columns_of_one_alone_are_named(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)
    other = published(tmp_path, SOME, publication="two", layout="vector")

    assert set(difference(one, other, key="id").only_in_one) == {
        *(f"z_{name}_00{k}" for name in ("mean", "stddev") for k in (0, 1)),
        "z_mean",
        "z_stddev",
    }


def test_nan_is_equal_to_nan(tmp_path: Path) -> None:
    latents = {"a": (float("nan"), 1.0)}
    one = published(tmp_path, latents)
    other = published(tmp_path, latents, publication="two")

    assert difference(one, other, key="id").same


def test_a_key_that_does_not_exist_is_named(tmp_path: Path) -> None:
    one = published(tmp_path, SOME)

    with pytest.raises(UnknownNameError, match="unknown column 'idd'; did you mean 'id'"):
        difference(one, one, key="idd")


values = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1
)


@settings(max_examples=15)  # each publishes twice, durably
@given(values, values)
def test_a_difference_read_backwards_is_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, one: Latents, other: Latents
) -> None:
    home = tmp_path_factory.mktemp("home")
    first = published(home, one)
    second = published(home, other, publication="two")
    there, back = difference(first, second, key="id"), difference(second, first, key="id")

    common = one.keys() & other.keys()
    assert there.added == back.removed == len(other.keys() - common)
    assert there.changed == back.changed == sum(one[k] != other[k] for k in common)
    assert there.columns == back.columns
