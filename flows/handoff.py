"""Where NumPy meets torch, and where a contract's kinds become a model's likelihoods.

Everything that a spec leaves open is decided here, from the data alone, in one place.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from data.encoding import EncodedColumn
from data.preprocessing import Preprocessor
from data.profile import Profile
from data.snapshot import Snapshot
from data.splits import hash_keys
from flows.spec import ModelSection, Spec, SpecError, TrainingSection
from vae_engine.ascent import has_kl_of_each_latent
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.statistics import Statistics

VALID_ROWS = (
    4096  # enough to choose weights by; a full pass each epoch costs more than it tells
)
BATCH_ROWS = 2048  # of an evaluation pass
STATISTICS_ROWS = 100_000  # what initial biases are measured on

LIKELIHOODS = {
    "continuous": "student_t_per_row",
    "positive": "log_normal",
    "binary": "bernoulli",
    "categorical": "categorical",
    "ordinal": "ordinal",
    "count": "zero_inflated_negative_binomial",
    "vector": "gaussian",
}
NEARLY_BINARY = 0.8  # share of pixels near black or white, above which grey is read as a chance

WIDE = 200  # entries of x from which the larger network pays, and latents come into use unaided
IMAGE_LATENTS, MAX_TABLE_LATENTS = 20, 16
PRINCIPAL_COMPONENTS = 20  # in the place of wide vectors
TRAINING_ROWS_SEEN = 1_500_000  # rows times epochs: what the default budget spends
TABLE_ROWS_SEEN = 2_500_000  # steps of a small network are cheap, and a density wants many
MIN_EPOCHS, MAX_EPOCHS, TABLE_MAX_EPOCHS = 10, 400, 600
PATIENCE = 10  # validations
TABLE_PATIENCE = 50  # the end of a falling rate brings a table what its beginning could not
WARMUP = 0.1  # share of the steps over which the KL of a table gets its weight
FREE_NATS, FREE = 0.1, 0.6  # of each latent of a table, over that share of the steps
PACE = {
    "learning_rate": 3e-3,
    "schedule": "cosine",
}  # what they are worth depends on each other


class Rows(NamedTuple):
    """Encoded rows of one split and the identity of each."""

    x: Tensor  # (rows, features), float32 or uint8
    row_keys: Tensor  # (rows,), int64

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """All rows at once."""
        return self.x, self.row_keys

    def on(self, device: str) -> "Rows":
        """The rows on a device."""
        return Rows(self.x.to(device), self.row_keys.to(device))

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
    kept: list[Rows] = []
    for part in snapshot.parts:
        table = snapshot.part_table(part, split=split)
        x = torch.from_numpy(preprocessor.transform(table).x)
        kept.append(Rows(x, row_keys(table[snapshot.key])))
        if limit is not None and sum(len(rows.x) for rows in kept) > limit:
            kept = [_joined(kept).first(limit)]  # never more than a part beside the sample
    return _joined(kept)


def _joined(parts: list[Rows]) -> Rows:
    return Rows(*(torch.cat(field) for field in zip(*parts, strict=True)))


def row_keys(keys: pa.ChunkedArray) -> Tensor:
    """The identity of each row as int64: the hash of its key that also chose its split."""
    return torch.from_numpy(hash_keys(keys).view(np.int64))


def statistics(config: ModelConfig, train: Tensor) -> Statistics:
    """What the decoder starts from: moments of the train rows."""
    return Statistics.of(config, train[:STATISTICS_ROWS])


def model_config(spec: Spec, preprocessor: Preprocessor, snapshot: Snapshot) -> ModelConfig:
    """The architecture: what the spec says, and the data decide the rest.

    Raises:
        ConfigError: a setting is unknown or does not fit the others.
    """
    chosen = spec.model
    columns = tuple(
        _column(column, snapshot.profile, chosen) for column in preprocessor.columns
    )
    wide = preprocessor.features >= WIDE
    settings = {
        "latents": _latents(preprocessor),
        "hidden": (500,) if wide else (128, 128),
        "principal_components": _components(spec, preprocessor, snapshot),
        **_said(chosen, {"likelihoods", "binarization"}),
    }
    return ModelConfig(columns=columns, **settings)


def _said(section: BaseModel, other: set[str]) -> dict[str, Any]:
    """What a section of the spec says itself, but for the keys that are read elsewhere."""
    return {
        key: value
        for key, value in section.model_dump(exclude=other).items()
        if value is not None
    }


def _latents(preprocessor: Preprocessor) -> int:
    """As many latents as entries, within bounds: those that say nothing cost nothing."""
    if preprocessor.features >= WIDE:
        return IMAGE_LATENTS
    return min(max(2, preprocessor.features), MAX_TABLE_LATENTS)


def _components(spec: Spec, preprocessor: Preprocessor, snapshot: Snapshot) -> int:
    """Of more entries than train rows an encoder would learn the rows by heart.

    Not of pictures: what 20 components leave out of them is as much as was gained (500 digits).
    """
    rows = min(snapshot.split_rows["train"], spec.training.rows or sys.maxsize)
    pictures = any(column.kind == "pixels" for column in preprocessor.columns)
    return 0 if pictures or preprocessor.features <= rows else PRINCIPAL_COMPONENTS


def _column(column: EncodedColumn, profile: Profile, chosen: ModelSection) -> Column:
    likelihood = chosen.likelihoods.get(column.name) or chosen.likelihoods.get(column.kind)
    if column.kind == "pixels":
        return _pixels(column, profile, likelihood, chosen.binarization)
    return Column(
        name=column.name,
        likelihood=likelihood or likelihood_of(column),
        width=column.width,
        categories=len(column.categories) if column.kind in {"categorical", "ordinal"} else 0,
        shift=column.shifts or column.shift,
        scale=column.scales or column.scale,
        missing=column.missing,
    )


def likelihood_of(column: EncodedColumn) -> str:
    """The likelihood of a column that is no picture, where the spec has none.

    Counts side by side, of words or genes, are rarely inflated; a chance of zero for each would
    be half of the decoder's outputs.
    """
    if column.kind == "count" and column.width > 1:
        return "negative_binomial"
    return LIKELIHOODS[column.kind]


def _pixels(
    column: EncodedColumn, profile: Profile, likelihood: str | None, policy: str | None
) -> Column:
    seen = profile[column.name]
    nearly_binary = (seen.near_extreme or 0) >= NEARLY_BINARY
    likelihood = likelihood or ("bernoulli" if nearly_binary else "gaussian")
    if likelihood == "bernoulli":
        policy = policy or ("none" if seen.two_values else "dynamic")
    return Column(
        name=column.name,
        likelihood=likelihood,
        width=column.width,
        scale=float(column.max or 1.0),
        image=column.image,
        missing=column.missing,
        binarization=policy or "none",
    )


def training_plan(spec: Spec, config: ModelConfig, *, rows: int) -> TrainingPlan:
    """How to train: what the spec says, and the number of rows and their width decide the rest.

    Raises:
        ConfigError: a setting is unknown or does not fit the others.
    """
    chosen, wide = spec.training, config.features >= WIDE
    seen, most = (
        (TRAINING_ROWS_SEEN, MAX_EPOCHS) if wide else (TABLE_ROWS_SEEN, TABLE_MAX_EPOCHS)
    )
    epochs = min(max(round(seen / rows), MIN_EPOCHS), most)
    paced = {"optimizer", *PACE} & _said(chosen, set()).keys()
    settings = {
        **({} if paced else PACE),
        "epochs": None if chosen.steps else epochs,
        "batch_rows": min(128, max(16, rows // 20)),
        "patience": PATIENCE if wide else TABLE_PATIENCE,
        **_said(chosen, {"device", "rows", "memory_bytes", "free_steps"}),
    }
    plan = TrainingPlan(device=device(chosen.device, "training.device"), **settings)
    settings = {"free_steps": chosen.free_steps}
    if not (paced or wide or plan.objective != "elbo"):
        settings |= _indulgence(chosen, config, plan.total_steps(rows))
    return replace(plan, **settings)


def _indulgence(chosen: TrainingSection, config: ModelConfig, steps: int) -> dict[str, Any]:
    """What spares the latents of a table at first, where the spec does not say.

    Its KL is warmed up: latents that a first, vague decoder has no use for would be given up for
    good, and with them what only several columns together tell.

    Their first nats are free for a while: of a column that shares nothing with others a latent
    can tell for as much as it costs. The bound does not mind, so that nothing would keep such
    latents in use, and who reads the features would not find those columns there. A spec that
    has a beta has said what a latent costs.
    """
    settings: dict[str, Any] = {}
    if chosen.warmup_steps is None:
        settings["warmup_steps"] = round(WARMUP * steps)
    pictures = any(column.image is not None for column in config.columns)
    unsaid = chosen.free_nats is None and chosen.beta is None
    if unsaid and not pictures and has_kl_of_each_latent(config):
        settings["free_nats"] = FREE_NATS
        settings["free_steps"] = chosen.free_steps or max(1, round(FREE * steps))
    return settings


def device(wanted: str, setting: str) -> str:
    """The device that a setting names; `auto` is a GPU where there is one.

    Raises:
        SpecError: it is a GPU that is not here.
    """
    there = torch.cuda.device_count()
    if wanted == "auto":
        return "cuda" if there else "cpu"
    if wanted.startswith("cuda") and (torch.device(wanted).index or 0) >= there:
        raise SpecError(
            f"{setting} is {wanted!r}, and PyTorch sees {there or 'no'} GPUs here: choose a machine "
            f"that has one, or set it to 'cpu'"
        )
    return wanted
