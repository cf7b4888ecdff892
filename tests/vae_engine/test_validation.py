"""Weights are judged by the bound that they are trained for."""

import pytest
import torch

from tests.vae_engine.rows import random_model, sampled, table
from vae_engine.config import GROUPED, OBJECTIVES, WEIGHTED, TrainingPlan
from vae_engine.evaluation import evaluate
from vae_engine.noise import keyed_noise
from vae_engine.objectives import iwae
from vae_engine.validation import validate

MODEL = random_model(table())
X, KEYS = sampled(table(), 103), torch.arange(103) * 7919
BATCHES = list(zip(X.split(40), KEYS.split(40), strict=True))


def plan(objective: str) -> TrainingPlan:
    groups = 2 if objective in GROUPED else None
    return TrainingPlan(seed=5, steps=1, objective=objective, samples=6, groups=groups)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in WEIGHTED])
def test_by_the_elbo_where_no_draws_are_weighted(objective: str) -> None:
    found = validate(MODEL, BATCHES, plan(objective))
    assert found.judged == found.elbo == evaluate(MODEL, BATCHES, samples=1, seed=5).elbo
    assert set(found.metrics()) == {"valid/elbo_nats", "valid/elbo_nats_stderr"}


@pytest.mark.parametrize("objective", WEIGHTED)
def test_by_the_bound_of_an_updates_draws_where_they_are_weighted(objective: str) -> None:
    found = validate(MODEL, BATCHES, plan(objective))
    bound = iwae(MODEL, X, keyed_noise(5, KEYS, 0, 6, MODEL.latents)).double()
    assert found.judged == found.iwae
    assert found.judged.mean == pytest.approx(bound.mean().item(), rel=1e-5)
    assert found.elbo == evaluate(MODEL, BATCHES, samples=1, seed=5).elbo
    assert found.metrics()["valid/iwae_nats"] == found.judged.mean
