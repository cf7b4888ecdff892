"""The E step draws from the true posterior."""

import torch

from vae_engine.config import Column, ModelConfig
from vae_engine.mcem import posterior_draws
from vae_engine.model import build_model


def test_draws_have_the_moments_of_the_true_posterior() -> None:
    """A model without hidden layers and with fixed noise is linear-Gaussian: p(z | x) is known.

    2,000 independent chains: a mean is off by stddev / 45, a variance by 3 %; z = 4. Twenty
    transitions from the prior leave less than that of where the chains began.
    """
    column = Column(name="v", likelihood="gaussian", width=4, stddev=0.8)
    model = build_model(ModelConfig(columns=(column,), latents=2, hidden=()), seed=0).double()
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = (
        model.get_parameter("tail.weight").detach(),
        model.get_parameter("tail.bias").detach(),
    )
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.64
    mean = torch.linalg.solve(precision, weight.T @ (x[0] - bias) / 0.64)
    covariance = torch.linalg.inv(precision)

    z = posterior_draws(model, x, 2000, torch.Generator().manual_seed(1))[:, 0]
    error = (z.mean(0) - mean) / covariance.diagonal().sqrt()
    assert error.abs().max() < 4 / 2000**0.5
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0.13, atol=0.02)


def test_draws_are_a_function_of_the_generator() -> None:
    column = Column(name="v", likelihood="gaussian", width=4)
    model = build_model(ModelConfig(columns=(column,), latents=2, hidden=(4,)), seed=0)
    x = torch.zeros(3, 4)
    one, two = (
        posterior_draws(model, x, 2, torch.Generator().manual_seed(5)) for _ in range(2)
    )

    assert torch.equal(one, two)
    assert one.shape == (2, 3, 2)
    assert not one.requires_grad
