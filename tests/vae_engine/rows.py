"""Small mixed tables and pictures that the tests of this folder share."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.model import VAE, build_model

MIXED = (
    Column(name="age", likelihood="gaussian", shift=40.0, scale=12.0, missing=True),
    Column(name="job", likelihood="categorical", categories=5),
    Column(name="member", likelihood="bernoulli"),
    Column(name="grade", likelihood="ordinal", categories=4),
    Column(name="visits", likelihood="poisson"),
    Column(name="calls", likelihood="negative_binomial"),
    Column(name="income", likelihood="log_normal", shift=9.0, scale=0.5),
    Column(name="change", likelihood="student_t", scale=3.0),
    Column(
        name="signal",
        likelihood="gaussian",
        width=3,
        shift=(1.0, 2.0, 3.0),
        scale=(1.0, 4.0, 0.5),
    ),
)
MORE = (
    Column(name="claims", likelihood="zero_inflated_negative_binomial"),
    Column(name="height", likelihood="gaussian", stddev=0.4, shift=170.0, scale=9.0),
    Column(name="weight", likelihood="gaussian_per_row", shift=70.0, scale=12.0),
    Column(name="share", likelihood="continuous_bernoulli", scale=4.0),
    Column(name="gust", likelihood="student_t_per_row", shift=10.0, scale=2.0),
    Column(name="level", likelihood="discretized_logistic", scale=15.0, components=3),
)
PICTURE = Column(
    name="image",
    likelihood="bernoulli",
    width=12,
    scale=255.0,
    image=(4, 3, 1),
    binarization="dynamic",
)


def table(**settings: Any) -> ModelConfig:
    """Return a small model of every kind of column."""
    return replace(ModelConfig(columns=MIXED, latents=3, hidden=(16,)), **settings)


def pictures(**settings: Any) -> ModelConfig:
    """Return a small model of 4 × 3 grey pictures."""
    return replace(ModelConfig(columns=(PICTURE,), latents=3, hidden=(16,)), **settings)


def plan(**settings: Any) -> TrainingPlan:
    """Return a short plan."""
    return replace(
        TrainingPlan(seed=1, steps=20, batch_rows=16, learning_rate=1e-2), **settings
    )


def sampled(config: ModelConfig, rows: int, seed: int = 0) -> Tensor:
    """Rows that a random model of `config` draws, some of their ages missing."""
    x = random_model(config).sample(rows, torch.Generator().manual_seed(seed)).detach()
    if config.columns[0].missing:
        x[::5, 0] = torch.nan
    return x


def random_model(config: ModelConfig, seed: int = 3, spread: float = 0.3) -> VAE:
    """A model whose outputs depend on z: every weight is drawn, biases too."""
    model = build_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def grey(rows: int, seed: int = 0) -> Tensor:
    """Grey pictures, uint8: two kinds, dark and light."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 80, (rows, 12), generator=generator, dtype=torch.uint8)
    kind = torch.randint(0, 2, (rows, 1), generator=generator, dtype=torch.uint8)
    return noise + 150 * kind
