"""Published features as tensors, for whatever is trained on them downstream.

    for batch in FeatureTensors(open_features("digits"), ["z_mean", "label"], split="train"):
        loss = model(batch["z_mean"], batch["label"])

Iterating again is another epoch. Rows come in the order of the publication, in bounded memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.cells import matrix
from data.contract import SpecError
from data.features import Features, feature_names


@dataclass(frozen=True)
class FeatureTensors:
    """Batches of columns by name: a feature as rows × latents, another column as one number a row."""

    features: Features
    columns: Sequence[str] = ("z_mean",)
    split: str | None = None
    batch_rows: int = 65_536

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        stored = {name: self._stored(name) for name in self.columns}
        wanted = [column for columns in stored.values() for column in columns]
        for batch in self.features.batches(self.batch_rows, columns=wanted, split=self.split):
            if len(batch):
                yield {name: _tensor(batch, name, columns) for name, columns in stored.items()}

    def _stored(self, name: str) -> list[str]:
        """The columns that hold `name`: itself, or one for each latent."""
        if name in self.features.schema.names:
            return [name]
        wide = feature_names(name, self.features.latents)
        return wide if wide[0] in self.features.schema.names else [name]


def _tensor(batch: pa.RecordBatch, name: str, columns: list[str]) -> Tensor:
    if columns != [name]:
        return torch.from_numpy(
            np.column_stack([batch[column].to_numpy() for column in columns])
        )
    cells = batch[name]
    if pa.types.is_fixed_size_list(cells.type):
        return torch.from_numpy(matrix(cells).copy())
    try:
        values = cells.to_numpy(zero_copy_only=False)
        return torch.from_numpy(values.copy())
    except TypeError:
        raise SpecError(
            f"column {name!r} is {cells.type}, which is no number; leave it out, or give "
            f"each of its values a number"
        ) from None
