"""A bounded sample of a run's rows and what its model says of them: what the report draws from.

The rows are those with the lowest keys of the test split, then of the others while there is
room: the same rows whatever their order, and rows that the model was not trained on first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from data.encoding import EncodedColumn
from data.preprocessing import Preprocessor
from data.snapshot import Snapshot, open_snapshot
from flows import handoff
from flows.runs import RunFolder
from vae_engine.artifact import load_model
from vae_engine.config import Column
from vae_engine.encoding import encode
from vae_engine.model import VAE

ROWS = 5000
ENTRIES = 4_000_000  # of the model's input: wide rows come in smaller numbers
MIN_ROWS = 200
SEED = 0  # of what is drawn from the model


@dataclass(frozen=True)
class Specimen:
    """A model, a sample of rows, and the posterior of each."""

    snapshot: Snapshot
    preprocessor: Preprocessor
    model: VAE
    table: pa.Table  # the snapshot's columns
    x: Tensor
    mean: npt.NDArray[np.float32]
    stddev: npt.NDArray[np.float32]

    @classmethod
    def of(cls, folder: RunFolder) -> "Specimen":
        """Read the run's model and encode a sample of its snapshot."""
        snapshot = open_snapshot(folder.snapshot)
        preprocessor = Preprocessor.from_json(folder.preprocessor.read_text("utf-8"))
        model = load_model(folder.model)
        limit = max(MIN_ROWS, min(ROWS, ENTRIES // preprocessor.features))
        table = sample_rows(snapshot, limit)
        x = torch.from_numpy(preprocessor.transform(table).x)
        mean, stddev = encode(model, x)
        return cls(snapshot, preprocessor, model, table, x, mean.numpy(), stddev.numpy())

    @cached_property
    def columns(self) -> tuple[tuple[EncodedColumn, Column], ...]:
        """Each encoded column with what the model takes it for."""
        return tuple(zip(self.preprocessor.columns, self.model.config.columns, strict=True))

    @cached_property
    def image(self) -> EncodedColumn | None:
        """The first column of pictures."""
        return next((column for column, _ in self.columns if column.image), None)

    @cached_property
    def keys(self) -> list[str]:
        """What identifies each row, as text."""
        return [str(key) for key in self.table[self.snapshot.key].to_pylist()]

    @cached_property
    def labels(self) -> list[object] | None:
        """The label of each row; None where the data set has none."""
        label = self.snapshot.contract.label
        return None if label is None else list(self.table[label].to_pylist())

    @property
    def test_rows(self) -> int:
        """How many of the rows are held out."""
        return self.table["split"].to_pylist().count("test")

    def generator(self) -> torch.Generator:
        """A fresh generator: two figures never share randomness."""
        return torch.Generator().manual_seed(SEED)

    def entries(
        self, column: EncodedColumn, x: Tensor | None = None
    ) -> npt.NDArray[np.float32]:
        """The entries of one column, of the sample's rows or of other encoded rows."""
        rows = self.x if x is None else x
        return rows[:, column.start : column.start + column.width].float().numpy()


def sample_rows(snapshot: Snapshot, limit: int) -> pa.Table:
    """The sample, read part by part: never more than a part and the sample in memory."""
    chosen: list[pa.Table] = []
    for split in ("test", "valid", "train"):
        room = limit - sum(len(table) for table in chosen)
        if room > 0:
            chosen.append(_lowest(snapshot, split, room))
    return pa.concat_tables(chosen)


def _lowest(snapshot: Snapshot, split: str, rows: int) -> pa.Table:
    """In the order of their keys, which mixes rows that a file has class by class."""
    kept: pa.Table | None = None
    for table in _tables(snapshot, split):
        kept = table if kept is None else pa.concat_tables([kept, table])
        order = handoff.row_keys(kept[snapshot.key]).argsort(stable=True)
        kept = kept.take(pa.array(order[:rows].numpy()))
    assert kept is not None, "a snapshot has at least one part"
    return kept


def _tables(snapshot: Snapshot, split: str) -> Iterator[pa.Table]:
    for part in snapshot.parts:
        yield snapshot.part_table(part, split=split)
