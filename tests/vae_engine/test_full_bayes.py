"""Variational weights: the closed form of their KL, and the limits in which the answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import distributions

from tests.mutants import mutant
from tests.vae_engine.rows import random_model, sampled, table
from vae_engine import full_bayes
from vae_engine.full_bayes import draw_weight_noise
from vae_engine.objectives import elbo, full_data_bound

close = torch.testing.assert_close
CONFIG = replace(table(), weights="variational")
X = sampled(table(), 6)
NOISE = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
MODEL = random_model(CONFIG)


def kl_is_that_of_torch(m: object) -> None:
    assert MODEL.weight_log_stddev is not None
    expected = sum(
        distributions.kl_divergence(
            distributions.Normal(mean, MODEL.weight_log_stddev[name.replace(".", "/")].exp()),
            distributions.Normal(0.0, 1.0),
        ).sum()
        for name, mean in MODEL.generative_parameters().items()
    )
    close(m.weights_kl(MODEL), expected)  # type: ignore[attr-defined]


def certain_weights_leave_the_elbo_and_the_price_of_certainty(m: object) -> None:
    """stddev -> 0: the bound is the ELBO at the mean less KL / N."""
    weight_noise = {n: torch.zeros_like(p) for n, p in MODEL.generative_parameters().items()}
    found = m.full_bayes(MODEL, X, NOISE, weight_noise, 50)  # type: ignore[attr-defined]
    close(found, elbo(MODEL, X, NOISE) - m.weights_kl(MODEL) / 50)  # type: ignore[attr-defined]


def a_draw_of_the_weights_is_mean_and_stddev_times_noise(m: object) -> None:
    weight_noise = draw_weight_noise(MODEL, torch.Generator().manual_seed(3))
    weights = m.sampled_weights(MODEL, weight_noise)  # type: ignore[attr-defined]
    moved = random_model(CONFIG)
    moved.load_state_dict(weights, strict=False)
    found = m.full_bayes(MODEL, X, NOISE, weight_noise, 50)  # type: ignore[attr-defined]
    close(found, elbo(moved, X, NOISE) - m.weights_kl(MODEL) / 50)  # type: ignore[attr-defined]
    name = "decoder.layers.0.weight"
    assert MODEL.weight_log_stddev is not None
    stddev = MODEL.weight_log_stddev[name.replace(".", "/")].exp()
    close(weights[name], MODEL.get_parameter(name) + stddev * weight_noise[name])


LAWS = [
    kl_is_that_of_torch,
    certain_weights_leave_the_elbo_and_the_price_of_certainty,
    a_draw_of_the_weights_is_mean_and_stddev_times_noise,
]
MUTANTS = {
    "kl: one log for two": ("- 1 - 2 * log_stddev)", "- 1 - log_stddev)"),
    "kl: not a share of each row": ("weights_kl(model) / total_rows", "weights_kl(model)"),
    "kl: added": ("return bound - weights_kl", "return bound + weights_kl"),
    "draw: log for stddev": (
        "[_key(name)].exp() * weight_noise",
        "[_key(name)] * weight_noise",
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law: object) -> None:
    assert callable(law)
    law(full_bayes)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(full_bayes, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


def test_every_generative_parameter_and_no_other_has_a_spread() -> None:
    assert MODEL.weight_log_stddev is not None
    names = {name.replace("/", ".") for name in MODEL.weight_log_stddev}

    assert names == set(MODEL.generative_parameters())
    assert not any(name.startswith(("encoder", "head", "inputs", "family")) for name in names)


def test_the_bound_of_all_rows_counts_the_weights_once() -> None:
    """N times the mean over rows: the sum of the ELBOs less one KL of the weights."""
    weight_noise = {n: torch.zeros_like(p) for n, p in MODEL.generative_parameters().items()}
    rows = full_bayes.full_bayes(MODEL, X, NOISE, weight_noise, 6)

    close(full_data_bound(rows, 6), elbo(MODEL, X, NOISE).sum() - full_bayes.weights_kl(MODEL))
