"""The model: what it refuses, what its weights depend on, what its encoder sees."""

import pytest
import torch

from tests.vae_engine.rows import grey, pictures, random_model, sampled, table
from vae_engine.config import Column, ConfigError, ModelConfig
from vae_engine.inputs import InputLayer
from vae_engine.model import LatentModel, build_model
from vae_engine.networks import Initial
from vae_engine.posteriors import DiagonalNormal
from vae_engine.statistics import Statistics


def test_a_vae_is_a_latent_model() -> None:
    assert isinstance(build_model(table(), seed=0), LatentModel)


def test_weights_are_a_function_of_the_seed_and_not_of_the_global_state() -> None:
    state = torch.random.get_rng_state()
    one, two, other = (build_model(table(), seed=s).state_dict() for s in (0, 0, 1))

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["encoder.layers.0.weight"], other["encoder.layers.0.weight"])


def test_grey_pixels_have_no_bernoulli_likelihood() -> None:
    """B20."""
    column = Column(
        name="image", likelihood="bernoulli", width=12, scale=255.0, image=(4, 3, 1)
    )
    config = ModelConfig(columns=(column,), latents=2)

    with pytest.raises(ConfigError) as caught:
        build_model(config, seed=0, statistics=Statistics.of(config, grey(20)))
    assert str(caught.value) == (
        "column 'image' holds values between 0 and 255.0, which have no Bernoulli likelihood. Set "
        "its binarization to 'dynamic', 'static' or 'threshold', or its likelihood to 'gaussian'."
    )
    black_and_white = (grey(20) > 100).to(torch.uint8) * 255
    build_model(config, seed=0, statistics=Statistics.of(config, black_and_white))
    build_model(pictures(), seed=0, statistics=Statistics.of(pictures(), grey(20)))


def test_every_weight_gets_a_gradient() -> None:
    model, x = random_model(table()), sampled(table(), 30)
    q = model.posterior(x)
    z = q.reparameterize(torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)))
    assert isinstance(q, DiagonalNormal)
    (model.log_likelihood(x, z).sum() - q.kl_from_prior().sum()).backward()

    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_encoder_sees_scaled_numbers_marks_and_indicators() -> None:
    columns = (
        Column(name="a", likelihood="gaussian", missing=True),
        Column(name="b", likelihood="categorical", categories=3, missing=True),
        Column(name="n", likelihood="poisson"),
        Column(name="o", likelihood="ordinal", categories=5),
        Column(name="c", likelihood="categorical", categories=2),
    )
    layer = InputLayer(ModelConfig(columns=columns), Initial(torch.Generator()))
    x = torch.tensor([[0.5, 2.0, 7.0, 1.0, 0.0], [torch.nan, torch.nan, 0.0, 4.0, 1.0]])

    log8 = torch.tensor(8.0).log().item()
    expected = [
        [0.5, log8, 0.25, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    ]
    assert layer.width == 9
    torch.testing.assert_close(layer(x, torch.float32), torch.tensor(expected))


def test_reconstructions_and_samples_are_rows() -> None:
    model = random_model(table())
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))

    assert model.reconstruct(z).shape == (7, table().features)
    assert model.sample(7, torch.Generator().manual_seed(0)).shape == (7, table().features)
    assert set(model.reconstruct(z)[:, 1].tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_a_posterior_of_extreme_outputs_stays_finite() -> None:
    model = random_model(table())
    with torch.no_grad():
        model.head.bias[3:] = torch.tensor([-1e6, 1e6, 0.0])

    q = model.posterior(sampled(table(), 4))
    assert isinstance(q, DiagonalNormal)
    assert q.kl_from_prior().isfinite().all()
    assert (q.stddev > 0).all()
