"""Products by either library are the same products, written where they belong."""

import pytest
import torch

from vae_engine import products
from vae_engine.products import affine, applied, back_through, least_terms, write_gradient

SMALL, LARGE = (3, 5, 7), (250, 200, 210)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("onednn", [False, products.ONEDNN])
def test_products_are_those_of_float64(
    shape: tuple[int, int, int], onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "ONEDNN", onednn)
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, slopes, weight, bias = (
        torch.randn(size, generator=generator)
        for size in ((rows, inputs), (rows, outputs), (outputs, inputs), (outputs,))
    )
    found, back = torch.full((rows, outputs), torch.nan), torch.full((rows, inputs), torch.nan)
    affine(bias, x, weight, found)
    back_through(slopes, weight, back)

    expected = x.double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(applied(x, weight, bias), found)
        assert torch.equal(applied(x.view(-1, 1, inputs), weight, bias)[:, 0], found)
    expected = slopes.double() @ weight.double()
    torch.testing.assert_close(back.double(), expected, rtol=1e-5, atol=1e-4)
    by_weight = torch.full_like(weight, torch.nan)
    write_gradient(slopes, x, 0.5, by_weight)
    expected = 0.5 * slopes.double().t() @ x.double()
    torch.testing.assert_close(by_weight.double(), expected, rtol=1e-5, atol=1e-4)


def test_gradients_and_other_precisions_are_left_to_pytorch() -> None:
    rows, inputs, outputs = LARGE
    x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs, requires_grad=True)
    applied(x, weight, None).sum().backward()
    with torch.no_grad():
        double = applied(x.double(), weight.double(), None)

    assert torch.equal(weight.grad, torch.full_like(weight, rows))  # type: ignore[arg-type]
    assert double.dtype == torch.float64


def test_one_of_the_two_shapes_is_large() -> None:
    """So that both libraries were asked above."""
    (a, b, c), (d, e, f) = SMALL, LARGE

    assert a * b * c < least_terms() <= d * e * f
