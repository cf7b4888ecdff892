"""Affine maps of bytes are those of float64, whatever the rows beside them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.vae_engine.processor import needs_bytes
from tests.vae_engine.rows import grey, pictures, random_model
from vae_engine import byte_products
from vae_engine.byte_products import ByteMap, multiplies_bytes
from vae_engine.config import Column, ModelConfig
from vae_engine.encoding import Encoder


def drawn(rows: int, inputs: int, outputs: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x, weight, bias and unit."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (rows, inputs), dtype=torch.uint8, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    unit = torch.randint(100, 256, (inputs,), generator=generator).float()
    return x, weight, bias, unit


def exact(x: Tensor, weight: Tensor, bias: Tensor, unit: Tensor) -> Tensor:
    return x.double() / unit.double() @ weight.double().t() + bias.double()


@needs_bytes
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 150), st.integers(0, 99))
def test_products_are_those_of_float64_to_three_digits(
    rows: int, inputs: int, outputs: int, seed: int
) -> None:
    x, weight, bias, unit = drawn(rows, inputs, outputs, seed)
    found = ByteMap.of(weight, bias, unit)
    if found is None:  # hypothesis found an output of a few large weights among tiny ones
        ratio = (weight / unit).abs().amax(1) / (weight / unit).abs().mean(1)
        assert ratio.max() > byte_products.LARGEST_RATIO
        return
    # What is beyond the third digit, and the roundings of seven numbers and sums.
    beyond = x.double().sum(1, keepdim=True) * (weight / unit).abs().amax(1)
    bound = 2**-24 * (beyond + 7 * exact(x, weight.abs(), bias.abs(), unit))
    error = (found(x).double() - exact(x, weight, bias, unit)).abs()

    assert (error <= bound).all()


@needs_bytes
def test_the_error_of_pictures_is_below_that_of_float32() -> None:
    x, weight, bias, _ = drawn(512, 784, 500)
    unit = torch.full((784,), 255.0)
    found = ByteMap.of(0.05 * weight, bias, unit)
    assert found is not None
    truth = exact(x, 0.05 * weight, bias, unit)
    of_float32 = torch.addmm(bias, x.float() / 255, 0.05 * weight.t())

    assert (found(x) - truth).abs().mean() < (of_float32 - truth).abs().mean()


@needs_bytes
def test_the_largest_and_the_smallest_sum_are_exact() -> None:
    """Instructions before VNNI add pairs in 16 bits, and lose what is beyond."""
    x = torch.full((3, 500), 255, dtype=torch.uint8)
    weight = torch.full((2, 500), 127.0) * torch.tensor([[1.0], [-1.0]])
    found = ByteMap.of(weight, torch.zeros(2), torch.ones(500))
    assert found is not None

    sums = torch.tensor([255.0 * 127 * 500, -255.0 * 127 * 500])
    assert torch.equal(found(x), sums.expand(3, 2))


@needs_bytes
@given(st.integers(1, 100), st.integers(0, 60))
def test_neighbours_change_no_bit(rows: int, start: int) -> None:
    x, weight, bias, unit = drawn(160, 70, 33)
    found = ByteMap.of(weight, bias, unit)
    assert found is not None

    assert torch.equal(found(x[start : start + rows]), found(x)[start : start + rows])
    assert torch.equal(found(x.t().contiguous().t()), found(x))


@needs_bytes
def test_outputs_without_a_weight_are_their_bias() -> None:
    x, weight, bias, unit = drawn(5, 20, 4)
    weight[2] = 0
    found = ByteMap.of(weight, bias, unit)
    assert found is not None

    assert torch.equal(found(x)[:, 2], bias[2].expand(5))


@needs_bytes
@pytest.mark.parametrize("odd", [1e4, torch.nan, torch.inf])
def test_weights_that_digits_would_lose_are_left_to_float32(odd: float) -> None:
    _, weight, bias, unit = drawn(1, 784, 70)
    assert ByteMap.of(weight, bias, torch.full_like(unit, 255)) is not None
    weight[66, 5] = odd

    assert ByteMap.of(weight, bias, torch.full_like(unit, 255)) is None


@needs_bytes
def test_other_precisions_devices_and_sums_beyond_int32_are_left_to_pytorch() -> None:
    _, weight, bias, unit = drawn(1, 30, 3)
    wide = torch.ones(1, byte_products.MOST_INPUTS + 1)

    assert ByteMap.of(weight.double(), bias, unit) is None
    assert ByteMap.of(weight.to("meta"), bias, unit) is None
    assert ByteMap.of(wide, torch.zeros(1), torch.ones(wide.shape[1])) is None
    assert ByteMap.of(wide[:, 1:], torch.zeros(1), torch.ones(wide.shape[1] - 1)) is not None


def test_without_the_instructions_nothing_is_asked_of_onednn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict, raising=False)

    assert not multiplies_bytes.__wrapped__()


@needs_bytes
@pytest.mark.parametrize("hidden", [(16,), (16, 8), ()])
@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "gelu", "softplus"])
def test_encoders_give_the_features_that_float32_gives(
    hidden: tuple[int, ...], activation: str
) -> None:
    model, x = random_model(pictures(hidden=hidden, activation=activation)), grey(50)
    mean, stddev = Encoder(model, batch_rows=16)(x)
    q = model.posterior(x.float())

    assert x.dtype == torch.uint8
    torch.testing.assert_close(mean, q.mean.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stddev, q.stddev.detach(), rtol=1e-5, atol=1e-5)


@needs_bytes
def test_pictures_go_through_bytes_and_what_is_beside_them_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    plain = ByteMap.__call__

    def noted(self: ByteMap, x: Tensor) -> Tensor:
        asked.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(ByteMap, "__call__", noted)
    picture = pictures().columns[0]
    beside = ModelConfig(
        columns=(picture, Column(name="n", likelihood="poisson")), latents=3, hidden=(16,)
    )
    Encoder(random_model(beside), batch_rows=8)(torch.ones(8, 13, dtype=torch.uint8))
    Encoder(random_model(pictures()), batch_rows=8)(grey(8).float())
    assert not asked
    Encoder(random_model(pictures()), batch_rows=8)(grey(8))

    assert asked == [8]


@needs_bytes
def test_a_change_of_the_weights_is_seen_by_the_next_encoder() -> None:
    model, x = random_model(pictures()), grey(8)
    before, _ = Encoder(model)(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after, _ = Encoder(model)(x)

    torch.testing.assert_close(after, model.posterior(x.float()).mean.detach())
    assert not torch.allclose(after, before)
