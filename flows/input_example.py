"""The input example of a registered model: what a request looks like.

Who may read the registry may read it, so that by default nobody's row is in it: each cell is
the middle of its column, or one of the categories that the model knows by name anyway.
"""

from typing import Literal

import numpy as np
import pandas as pd

from data.encoding import CODED_KINDS
from data.preprocessing import Preprocessor
from data.snapshot import Snapshot

ROWS = 3


def input_example(
    kind: Literal["rows", "synthetic", "none"], snapshot: Snapshot, preprocessor: Preprocessor
) -> pd.DataFrame | None:
    """A few rows of what the served model takes: made up, or real ones, or none at all."""
    if kind == "none":
        return None
    encoded = snapshot.contract.encoded
    names = [name for column in encoded for name in column.sources]
    if kind == "rows":
        table = snapshot.part_table(snapshot.parts[0], columns=names)
    else:
        table = preprocessor.inverse(_middles(preprocessor))
    shown = table.select(names)[:ROWS].to_pandas()
    may_have_gaps = [n for column in encoded if column.nulls == "allow" for n in column.sources]
    integers = shown[may_have_gaps].select_dtypes("integer")  # the signature has them as floats
    return shown.astype(dict.fromkeys(integers, float))


def _middles(preprocessor: Preprocessor) -> np.ndarray:
    """Encoded rows: 0 is the mean of what is scaled; codes go through the first categories."""
    x = np.zeros((ROWS, preprocessor.features), np.float32)
    for column in preprocessor.columns:
        if column.kind in CODED_KINDS:
            x[:, column.start] = np.arange(ROWS) % max(1, len(column.categories))
    return x.astype(preprocessor.dtype)
