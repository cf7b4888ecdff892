"""Where NumPy meets torch, and where a contract's kinds become a model's likelihoods.

Everything that a spec leaves open is decided here, from the data alone, in one place.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.encoding import EncodedColumn
from data.preprocessing import Preprocessor
from data.profile import Profile
from data.snapshot import Snapshot
from data.splits import hash_keys
from flows.spec import ModelSection, Spec
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.statistics import Statistics

VALID_ROWS = (
    4096  # enough to choose weights by; a full pass each epoch costs more than it tells
)
BATCH_ROWS = 2048  # of an evaluation pass
STATISTICS_ROWS = 100_000  # what initial biases are measured on

LIKELIHOODS = {
    "continuous": "gaussian",
    "positive": "log_normal",
    "binary": "bernoulli",
    "categorical": "categorical",
    "ordinal": "ordinal",
    "count": "negative_binomial",
    "vector": "gaussian",
}
NEARLY_BINARY = 0.8  # share of pixels near black or white, above which grey is read as a chance

WIDE = 200  # entries of x from which the larger network pays
IMAGE_LATENTS, MAX_TABLE_LATENTS = 20, 16
TRAINING_ROWS_SEEN = 1_500_000  # rows times epochs: what the default budget spends
MIN_EPOCHS, MAX_EPOCHS = 10, 400
PATIENCE = 10  # validations


class Rows(NamedTuple):
    """Encoded rows of one split and the identity of each."""

    x: Tensor  # (rows, features), float32 or uint8
    row_keys: Tensor  # (rows,), int64

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """All rows at once."""
        return self.x, self.row_keys

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows in batches, in order."""
        yield from zip(self.x.split(rows), self.row_keys.split(rows), strict=True)

    def first(self, rows: int) -> "Rows":
        """The rows with the lowest keys: a sample that does not depend on their order."""
        chosen = self.row_keys.argsort(stable=True)[:rows]
        return Rows(self.x[chosen], self.row_keys[chosen])


def load_rows(
    snapshot: Snapshot, preprocessor: Preprocessor, split: str, *, limit: int | None = None
) -> Rows:
    """Read and encode one split; with `limit`, the rows with the lowest keys."""
    xs, keys = [], []
    for part in snapshot.parts:
        table = snapshot.part_table(part, split=split)
        xs.append(preprocessor.transform(table).x)
        keys.append(row_keys(table[snapshot.key]))
    rows = Rows(torch.from_numpy(np.concatenate(xs)), torch.cat(keys))
    return rows if limit is None or limit >= len(rows.x) else rows.first(limit)


def row_keys(keys: pa.ChunkedArray) -> Tensor:
    """The identity of each row as int64: the hash of its key that also chose its split."""
    return torch.from_numpy(hash_keys(keys).view(np.int64))


def statistics(config: ModelConfig, train: Rows) -> Statistics:
    """What the decoder starts from: moments of the train rows."""
    return Statistics.of(config, train.x[:STATISTICS_ROWS])


def model_config(spec: Spec, preprocessor: Preprocessor, snapshot: Snapshot) -> ModelConfig:
    """The architecture: what the spec says, and the data decide the rest."""
    chosen = spec.model
    columns = tuple(
        _column(column, snapshot.profile, chosen) for column in preprocessor.columns
    )
    wide = preprocessor.features >= WIDE
    return ModelConfig(
        columns=columns,
        latents=chosen.latents or _latents(preprocessor),
        hidden=chosen.hidden or ((500,) if wide else (256, 256)),
        activation=chosen.activation or ("tanh" if wide else "silu"),
        network=chosen.network or "mlp",
        posterior=chosen.posterior or "diagonal",
        prior=chosen.prior or "standard",
    )


def _latents(preprocessor: Preprocessor) -> int:
    """Half as many latents as entries that vary, within bounds: a choice, not an estimate."""
    if preprocessor.features >= WIDE:
        return IMAGE_LATENTS
    return min(max(2, -(-preprocessor.features // 2)), MAX_TABLE_LATENTS)


def _column(column: EncodedColumn, profile: Profile, chosen: ModelSection) -> Column:
    if column.kind == "pixels":
        return _pixels(column, profile, chosen)
    return Column(
        name=column.name,
        likelihood=LIKELIHOODS[column.kind],
        width=column.width,
        categories=len(column.categories) if column.kind in {"categorical", "ordinal"} else 0,
        shift=column.shifts or column.shift,
        scale=column.scales or column.scale,
        missing=column.missing,
    )


def _pixels(column: EncodedColumn, profile: Profile, chosen: ModelSection) -> Column:
    seen = profile[column.name]
    likelihood = chosen.pixels or (
        "bernoulli" if (seen.near_extreme or 0) >= NEARLY_BINARY else "gaussian"
    )
    policy = "none"
    if likelihood == "bernoulli":
        policy = chosen.binarization or ("none" if seen.two_values else "dynamic")
    return Column(
        name=column.name,
        likelihood=likelihood,
        width=column.width,
        scale=float(column.max or 1.0),
        image=column.image,
        missing=column.missing,
        binarization=policy,
    )


def training_plan(spec: Spec, rows: int) -> TrainingPlan:
    """How to train: what the spec says, and the number of rows decides the rest."""
    chosen = spec.training
    epochs = min(max(round(TRAINING_ROWS_SEEN / rows), MIN_EPOCHS), MAX_EPOCHS)
    return TrainingPlan(
        seed=chosen.seed,
        epochs=chosen.epochs or epochs,
        batch_rows=chosen.batch_rows or min(128, max(16, rows // 20)),
        learning_rate=chosen.learning_rate,
        optimizer=chosen.optimizer,
        objective=chosen.objective,
        samples=chosen.samples,
        clip_norm=chosen.clip_norm,
        patience=chosen.patience or PATIENCE,
        device=_device(chosen.device),
        precision={"fp32": "float32", "bf16": "bfloat16"}[chosen.precision],
    )


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted
