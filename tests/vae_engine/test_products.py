"""Products by either library are the same products, written where they belong."""

import math

import pytest
import torch

from tests.vae_engine.processor import needs_halves
from vae_engine import products
from vae_engine.products import (
    LEAST_TERMS,
    LEAST_TERMS_AMD,
    affine,
    applied,
    back_through,
    gradient_of_weight,
    least_terms_of,
)


@pytest.mark.parametrize("shape", [(3, 5, 7), (250, 200, 210)])
@pytest.mark.parametrize("onednn", [False, products.ONEDNN])
def test_products_are_those_of_float64(
    shape: tuple[int, int, int], onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "ONEDNN", onednn)
    monkeypatch.setattr(products, "least_terms", lambda: 0)
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, slopes, weight, bias = (
        torch.randn(size, generator=generator)
        for size in ((rows, inputs), (rows, outputs), (outputs, inputs), (outputs,))
    )
    found = affine(bias, x, weight, torch.full((rows, outputs), torch.nan))
    back = back_through(slopes, weight, torch.full((rows, inputs), torch.nan))

    expected = x.double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(applied(x, weight, bias), found)
        assert torch.equal(applied(x.view(-1, 1, inputs), weight, bias)[:, 0], found)
    expected = slopes.double() @ weight.double()
    torch.testing.assert_close(back.double(), expected, rtol=1e-5, atol=1e-4)
    by_weight = gradient_of_weight(slopes, x, torch.full_like(weight, torch.nan))
    expected = slopes.double().t() @ x.double()
    torch.testing.assert_close(by_weight.double(), expected, rtol=1e-5, atol=1e-4)


@needs_halves
def test_halved_factors_have_eight_bits_and_their_sums_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "least_terms", lambda: 0)
    rows, inputs, outputs = 50, 4096, 60
    x, weight = torch.rand(rows, inputs), torch.rand(outputs, inputs)
    bias, room = torch.rand(outputs), torch.empty(rows, outputs)
    rounded = x.bfloat16().double() @ weight.bfloat16().double().t() + bias.bfloat16().double()

    found = affine(bias, x, weight, room, half=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded, rtol=2**-8, atol=0)
    slopes = torch.rand(rows, outputs)
    rounded = slopes.bfloat16().double() @ weight.bfloat16().double()
    back = back_through(slopes, weight, x, half=True)
    torch.testing.assert_close(back.double(), rounded, rtol=2**-8, atol=0)
    rounded = slopes.bfloat16().double().t() @ x.bfloat16().double()
    by_weight = gradient_of_weight(slopes, x, weight, half=True)
    torch.testing.assert_close(by_weight.double(), rounded, rtol=2**-8, atol=0)


@pytest.mark.skipif(not products.ONEDNN, reason="this PyTorch has no oneDNN")
def test_where_there_is_no_half_precision_products_are_in_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without AVX-512 oneDNN has no such product, and raises an error where it is asked."""
    monkeypatch.setattr(products, "least_terms", lambda: 0)
    monkeypatch.setattr(products, "HALVES", False)
    x, weight, bias = torch.rand(50, 400), torch.rand(60, 400), torch.rand(60)
    found, full = (affine(bias, x, weight, torch.empty(50, 60), half=h) for h in (True, False))
    assert torch.equal(found, full)


def test_gradients_and_other_precisions_are_left_to_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "least_terms", lambda: 0)
    rows, inputs, outputs = 250, 200, 210
    x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs, requires_grad=True)
    applied(x, weight, None).sum().backward()
    with torch.no_grad():
        double = applied(x.double(), weight.double(), None)

    assert torch.equal(weight.grad, torch.full_like(weight, rows))  # type: ignore[arg-type]
    assert double.dtype == torch.float64


@pytest.mark.parametrize(
    ("cpu", "least"),
    [
        ("vendor_id : GenuineIntel\nflags : fpu avx2 avx512f", LEAST_TERMS),
        ("vendor_id : GenuineIntel\nflags : fpu avx2", LEAST_TERMS),
        ("vendor_id : AuthenticAMD\ncpu family\t: 26\nflags : fpu avx512f", LEAST_TERMS_AMD),
        ("vendor_id : AuthenticAMD\ncpu family\t: 25\nflags : fpu avx512f", LEAST_TERMS),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f", LEAST_TERMS),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", math.inf),
        ("CPU implementer : 0x41", LEAST_TERMS),
        ("", LEAST_TERMS),
    ],
)
def test_the_library_is_chosen_by_what_the_processor_has(cpu: str, least: float) -> None:
    """Measured with products of 100 to 1,024 rows, 784 and 500 wide, by one and by two threads."""
    assert least_terms_of(cpu) == least
