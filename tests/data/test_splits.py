import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.splits import SPLITS, hash_keys, split_as_said, split_of

fractions = st.floats(0.0, 0.3)


def split(key: str, *, valid: float = 0.1, test: float = 0.1) -> str:
    return str(split_of(hash_keys(pa.array([key])), valid=valid, test=test)[0])


@given(st.text(), fractions, fractions, fractions)
def test_growing_valid_never_moves_a_test_row(
    key: str, small: float, more: float, test: float
) -> None:
    before = split(key, valid=small, test=test)
    after = split(key, valid=small + more, test=test)

    assert (before == "test") == (after == "test")
    assert not (before == "valid" and after == "train")


@given(st.text(), fractions, fractions, fractions)
def test_growing_test_never_moves_a_valid_row(
    key: str, small: float, more: float, valid: float
) -> None:
    before = split(key, test=small, valid=valid)
    after = split(key, test=small + more, valid=valid)

    assert (before == "valid") == (after == "valid")
    assert not (before == "test" and after == "train")


@given(st.lists(st.text(), min_size=1), st.randoms(use_true_random=False))
def test_a_split_depends_on_the_key_alone(keys: list[str], random: object) -> None:
    hashes = hash_keys(pa.array(keys))

    for key, value in zip(keys, hashes, strict=True):
        assert hash_keys(pa.chunked_array([pa.array([key])]))[0] == value


@pytest.mark.parametrize("type_", [pa.int16(), pa.int64(), pa.uint8(), pa.string()])
def test_a_wider_key_type_moves_no_row(type_: pa.DataType) -> None:
    keys = pa.array([0, 1, 7, 42]).cast(type_)

    np.testing.assert_array_equal(hash_keys(keys), hash_keys(pa.array(["0", "1", "7", "42"])))


def test_the_hash_is_the_one_of_the_first_release() -> None:
    """A changed hash would silently move test rows into training."""
    assert [hex(value) for value in hash_keys(pa.array(["", "a", "row:17"]))] == GOLDEN
    assert hash_keys(pa.array([b"a"])).tolist() == hash_keys(pa.array(["a"])).tolist()


def test_fractions_are_within_binomial_bounds() -> None:
    """n = 40,000, p = 0.1: standard error 0.0015, times z = 3.29 (failure rate 1e-3)."""
    splits = split_of(hash_keys(pa.array(range(40_000))), valid=0.1, test=0.1)

    assert abs(np.mean(splits == "test") - 0.1) < 3.29 * 0.0015
    assert abs(np.mean(splits == "valid") - 0.1) < 3.29 * 0.0015


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, -0.1)])
def test_fractions_that_leave_no_training_rows_are_refused(valid: float, test: float) -> None:
    with pytest.raises(ValueError, match="leave rows to train on; got valid"):
        split("key", valid=valid, test=test)


def test_what_a_column_says_is_taken_in_any_spelling() -> None:
    said = ["train", "Validation", "TEST ", "val", "training"]

    splits = split_as_said(
        pa.array(said), hash_keys(pa.array(said)), categories=said, valid=0.5, test=0.4
    )

    assert splits.tolist() == ["train", "valid", "test", "valid", "train"]


def test_what_a_column_does_not_name_is_taken_from_its_train_rows() -> None:
    hashes = hash_keys(pa.array(range(1000)))
    said = pa.array(["test" if row % 5 == 0 else "train" for row in range(1000)])

    splits = split_as_said(said, hashes, categories=["test", "train"], valid=0.2, test=0.3)

    by_hash = split_of(hashes, valid=0.2, test=0)
    np.testing.assert_array_equal(splits == "test", np.arange(1000) % 5 == 0)
    np.testing.assert_array_equal(splits[splits != "test"], by_hash[splits != "test"])


GOLDEN = ["0x186da64456263a46", "0xc1999a454057bfd0", "0x2c0f9672c5e19882"]


def test_a_row_that_does_not_say_is_in_no_split() -> None:
    """Its check refuses it, and says so; until then it is held apart."""
    said = pa.array(["train", None, "test"])
    found = split_as_said(
        said, np.zeros(3, np.uint64), categories=("train", "test"), valid=0.0, test=0.0
    )

    assert found[0] == "train"
    assert found[1] not in SPLITS
    assert found[2] == "test"
