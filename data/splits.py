"""Which rows train, validate and test: a pure function of each row's key, or what a column says.

A row keeps its split when rows are added, removed or reordered, when the file's format
changes, and when the key's type widens: the hash is of the key as text (SipHash-2-4 under
pandas' fixed key). u = hash / 2**64 is uniform; test takes the low end and valid the high
end, so growing one of them never moves a row into or out of the other.

Published data often bring their own split, and mostly without a validation part: what such a
column does not name is taken from its train rows, by the same hash.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SPLITS = ("train", "valid", "test")

ROLES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}  # what a column that splits may say, in any case


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return one 64-bit hash per key; equal exactly where the keys read the same as text."""
    from pandas.util import hash_array  # half a second that most processes do without

    text: Any = keys if pa.types.is_binary(keys.type) else keys.cast(pa.string())
    return hash_array(text.to_numpy(zero_copy_only=False), categorize=False)


def split_of(
    hashes: npt.NDArray[np.uint64], *, valid: float, test: float
) -> npt.NDArray[np.str_]:
    """Return "train", "valid" or "test" per row: test if u < test, valid if u >= 1 - valid.

    Raises:
        ValueError: a fraction is negative, or nothing is left for training.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise ValueError(
            f"split fractions must be >= 0 and leave rows to train on; "
            f"got valid = {valid}, test = {test}"
        )
    u = hashes / 2.0**64
    return np.where(u < test, "test", np.where(u >= 1 - valid, "valid", "train"))


def split_as_said(
    said: pa.Array | pa.ChunkedArray,
    hashes: npt.NDArray[np.uint64],
    *,
    categories: Sequence[object],
    valid: float,
    test: float,
) -> npt.NDArray[np.str_]:
    """Return "train", "valid" or "test" per row, as a column of the source says.

    `categories` are the values that the column may have (see `ROLES`). Where none of them
    means "valid" (or "test"), that fraction of the train rows is taken, by the hash of the key.
    """
    roles = {role_of(category) for category in categories}
    values = pa.chunked_array([said]) if isinstance(said, pa.Array) else said
    coded = values.combine_chunks().dictionary_encode(null_encoding="encode")  # it has a place
    splits = np.array([role_of(value) for value in coded.dictionary.to_pylist()], "<U5")
    splits = splits[coded.indices.to_numpy()]
    rest = split_of(
        hashes,
        valid=0 if "valid" in roles else valid,
        test=0 if "test" in roles else test,
    )
    return np.where(splits == "train", rest, splits)


def role_of(value: object) -> str | None:
    """Return what a cell of a column that splits means, or None for what means nothing."""
    return ROLES.get(str(value).strip().lower())
