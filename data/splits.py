"""Which rows train, validate and test: a pure function of each row's key.

A row keeps its split when rows are added, removed or reordered, when the file's format
changes, and when the key's type widens: the hash is of the key as text (SipHash-2-4 under
pandas' fixed key). u = hash / 2**64 is uniform; test takes the low end and valid the high
end, so growing one of them never moves a row into or out of the other.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pandas.util import hash_array

SPLITS = ("train", "valid", "test")


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return one 64-bit hash per key; equal exactly where the keys read the same as text."""
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
