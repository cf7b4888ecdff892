"""Networks: pictures of any size go in and come out, rows do not mix, weights follow the seed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vae_engine.rows import MIXED, random_model, sampled
from vae_engine.config import Column, ConfigError, ModelConfig
from vae_engine.model import build_model
from vae_engine.networks import (
    ACTIVATIONS,
    MLP,
    ImageDecoder,
    ImageEncoder,
    Initial,
    Levels,
    Tanh,
)
from vae_engine.objectives import elbo
from vae_engine.statistics import Statistics

PIXELS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "gaussian_per_row",
    "discretized_logistic",
)


def initial(seed: int = 0) -> Initial:
    return Initial(torch.Generator().manual_seed(seed))


def picture(height: int, width: int, channels: int, likelihood: str = "gaussian") -> Column:
    return Column(
        name="image",
        likelihood=likelihood,
        width=height * width * channels,
        scale=255.0,
        image=(height, width, channels),
        components=2 if likelihood == "discretized_logistic" else 1,
    )


def model_of(*columns: Column, network: str = "conv") -> ModelConfig:
    return ModelConfig(
        columns=columns, latents=3, network=network, hidden=(4, 6), activation="relu"
    )


@given(st.integers(1, 33), st.integers(1, 33), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=30)
def test_a_picture_of_any_size_comes_out_in_its_own(
    height: int, width: int, channels: int, residual: bool
) -> None:
    levels = Levels((height, width, channels), (4, 5, 6))
    encoder = ImageEncoder(levels, "relu", initial(), residual=residual)
    decoder = ImageDecoder(3, levels, 2, "relu", initial(), residual=residual)

    hidden = encoder(torch.zeros(2, height * width * channels))
    assert hidden.shape == (2, encoder.outputs)
    assert decoder(torch.zeros(4, 2, 3)).shape == (4, 2, 2 * height * width * channels)


@pytest.mark.parametrize("size", [(28, 20, 1), (8, 8, 1), (32, 32, 3)])
@pytest.mark.parametrize("network", ["conv", "residual"])
@pytest.mark.parametrize("likelihood", PIXELS)
def test_every_likelihood_of_pixels_trains_on_every_network(
    size: tuple[int, int, int], network: str, likelihood: str
) -> None:
    model = build_model(model_of(picture(*size, likelihood), network=network), seed=0)
    x = model.sample(2, torch.Generator().manual_seed(0))
    bound = elbo(model, x, torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)))
    bound.sum().backward()

    assert model.reconstruct(torch.zeros(2, 3)).shape == x.shape
    assert bound.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_pixel_of_the_decoder_is_that_pixel_of_x() -> None:
    """Channels last: a bias on one plane of one channel moves every third entry and no other."""
    levels = Levels((4, 3, 3), (4,))
    decoder = ImageDecoder(2, levels, 2, "relu", initial(), residual=False)
    before = decoder(torch.zeros(1, 1, 2))
    with torch.no_grad():
        decoder.layers[-1].get_parameter("bias")[3 + 1] += 1  # plane 1, channel 1
    moved = (decoder(torch.zeros(1, 1, 2)) - before)[0, 0].view(2, 4, 3, 3)

    assert (moved[0] == 0).all()
    torch.testing.assert_close(moved[1, :, :, 1], torch.ones(4, 3))
    assert (moved[1, :, :, [0, 2]] == 0).all()


def test_the_encoder_sees_a_picture_upright() -> None:
    """A convolution of a horizontal stripe differs from that of a vertical one of the same cells
    only through the layout: transposing picture and kernel together changes nothing."""
    levels, turned = Levels((6, 4, 1), (5,)), Levels((4, 6, 1), (5,))
    encoder, other = (
        ImageEncoder(sizes, "relu", initial(), residual=False) for sizes in (levels, turned)
    )
    with torch.no_grad():
        weight = encoder.layers[0].get_parameter("weight")
        other.layers[0].get_parameter("weight").copy_(weight.mT)
    x = torch.rand(1, 24, generator=torch.Generator().manual_seed(1))
    there = encoder(x).view(5, 3, 2)
    here = other(x.view(6, 4).T.reshape(1, 24)).view(5, 2, 3)

    torch.testing.assert_close(there, here.mT)


@pytest.mark.parametrize("network", ["conv", "residual"])
def test_rows_do_not_mix(network: str) -> None:
    """No normalization over the batch: a row's features are its own."""
    model = random_model(model_of(picture(7, 5, 3), network=network))
    x = model.sample(6, torch.Generator().manual_seed(0)).detach()
    together = model.posterior(x).mean
    alone = torch.cat([model.posterior(x[k : k + 1]).mean for k in range(6)])

    torch.testing.assert_close(together, alone)


def test_columns_beside_a_picture_have_their_part() -> None:
    columns = (*MIXED[:3], picture(5, 4, 1, "bernoulli"), *MIXED[3:])
    config = model_of(*columns)
    model = random_model(config)
    x = sampled(config, 9)
    draws = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1))
    by_column = model.log_likelihood_per_column(x, draws)
    model.log_likelihood(x, draws).sum().backward()

    torch.testing.assert_close(by_column.sum(-1), model.log_likelihood(x, draws))
    changed = x.clone()
    changed[:, 3:23] = 255 - changed[:, 3:23]
    moved = (model.log_likelihood_per_column(changed, draws) != by_column).any(0).any(0)
    assert moved.nonzero().flatten().tolist() == [3]
    assert not torch.equal(model.posterior(changed).mean, model.posterior(x).mean)
    other = x.clone()
    other[:, 0] = 3.0
    assert not torch.equal(model.posterior(other).mean, model.posterior(x).mean)


def test_pictures_start_at_the_train_means() -> None:
    config = model_of(picture(5, 4, 3))
    x = (torch.rand(50, 60, generator=torch.Generator().manual_seed(0)) * 200 + 20).round()
    model = build_model(config, seed=0, statistics=Statistics.of(config, x))

    start = model.likelihood.mean(model.tail.bias.detach()[None, None])[0, 0]
    torch.testing.assert_close(start, x.mean(0), rtol=1e-4, atol=1e-3)


def test_a_network_of_pictures_needs_one() -> None:
    with pytest.raises(ConfigError, match="network 'conv' needs one column of pixels, not 0"):
        model_of(MIXED[0])
    with pytest.raises(ConfigError, match="needs hidden, the channels of each level"):
        replace(model_of(picture(4, 4, 1)), hidden=())


def test_many_categories_are_embedded_and_an_unknown_one_is_nothing() -> None:
    columns = (
        Column(name="zip", likelihood="categorical", categories=300),
        Column(name="job", likelihood="categorical", categories=5),
        Column(name="street", likelihood="categorical", categories=70),
    )
    config = ModelConfig(columns=columns, latents=2, hidden=(8,), embedding_width=3)
    layer = build_model(config, seed=0).inputs
    x = torch.tensor([[299.0, 4.0, 69.0], [torch.nan, 1.0, 0.0]])
    inputs = layer(x, torch.float32)

    assert layer.width == inputs.shape[-1] == 5 + 3 + 3
    torch.testing.assert_close(inputs[0, 5:8], layer.vectors[299])
    torch.testing.assert_close(inputs[0, 8:], layer.vectors[300 + 69])
    assert (inputs[1, 5:8] == 0).all()
    torch.testing.assert_close(inputs[1, 8:], layer.vectors[300])
    assert layer.vectors.shape == (370, 3)


@pytest.mark.parametrize("rows", [3, 300])  # of which a product is small or large
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_network_is_the_same_with_and_without_a_gradient(activation: str, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    network = MLP(210, (200, 190), activation, Initial(generator))
    x = 3 * torch.randn(2, rows, 210, generator=generator)

    expected = network.double()(x.double()).float()
    with torch.no_grad():
        found = network.float()(x)

    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_inputs_leave_the_rows_as_they_are(dtype: torch.dtype) -> None:
    columns = (Column(name="x", likelihood="bernoulli", width=6, scale=255.0),)
    layer = build_model(ModelConfig(columns=columns, latents=1, hidden=(2,)), seed=0).inputs
    x = torch.arange(12).view(2, 6).to(dtype)

    inputs = layer(x, torch.float32)

    torch.testing.assert_close(inputs, torch.arange(12.0).view(2, 6) / 255)
    assert torch.equal(x, torch.arange(12).view(2, 6).to(dtype))


def test_weights_of_a_given_spread() -> None:
    """K&W: N(0, 0.01^2). 40,000 weights: the standard error of their spread is 0.35 %; z = 3.3."""
    layer = MLP(200, (200,), "tanh", Initial(torch.Generator().manual_seed(0), 0.01)).layers[0]

    assert layer.get_parameter("weight").std().item() == pytest.approx(0.01, rel=0.012)


def test_a_network_without_hidden_layers_is_linear() -> None:
    config = ModelConfig(
        columns=(Column(name="v", likelihood="gaussian", width=4),), latents=2, hidden=()
    )
    model = random_model(config)
    z = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))

    twice = model.decode(2 * z) - model.decode(torch.zeros_like(z))
    torch.testing.assert_close(twice, 2 * (model.decode(z) - model.decode(torch.zeros_like(z))))


def test_tanh_is_the_same_with_and_without_a_gradient() -> None:
    """The sum 2 sigmoid - 1 rounds at 1: 2 units of 2^-24, and a little of each sigmoid's."""
    x = torch.linspace(-20, 20, 100_001)

    with_gradient = Tanh()(x)
    with torch.no_grad():
        without = Tanh()(x)

    torch.testing.assert_close(with_gradient, x.double().tanh().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(without, with_gradient, rtol=0, atol=2.5e-7)
