"""Products of float32 matrices on a CPU, each by the faster of the two libraries PyTorch has.

`torch.mm` asks MKL, which lets threads share the rows of a product, and a minibatch has few of
them. oneDNN shares the columns too and knows more processors: it is ahead by a tenth to a third
where a product is large, and behind where a call costs more than the product.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST_TERMS = 10_000_000  # multiplications from which oneDNN is ahead
ONEDNN = torch.backends.mkldnn.is_available()  # not built into every PyTorch


def applied(
    x: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "*rows outputs"]:
    """Return x W^T + b: what `functional.linear` does, which this leaves what is not its own.

    No gradient goes through oneDNN here.
    """
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if plain or {x.device.type, x.dtype, weight.dtype} != {"cpu", torch.float32}:
        return functional.linear(x, weight, bias)
    if not _large(x.numel() // x.shape[-1], weight):
        return functional.linear(x, weight, bias)
    return _by_onednn(x, weight, bias)


def affine(
    bias: Float[Tensor, " outputs"],
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    out: Float[Tensor, "rows outputs"],
) -> None:
    """Write x W^T + b into `out`."""
    if _large(len(x), weight):
        out.copy_(_by_onednn(x, weight, bias))
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def back_through(
    slopes: Float[Tensor, "rows outputs"],
    weight: Float[Tensor, "outputs inputs"],
    out: Float[Tensor, "rows inputs"],
) -> None:
    """Write slopes W, the slopes by the inputs of an affine map, into `out`."""
    if _large(len(slopes), weight):
        out.copy_(_by_onednn(slopes, weight.t(), None))
    else:
        torch.mm(slopes, weight, out=out)


def _large(rows: int, weight: Tensor) -> bool:
    return ONEDNN and rows * weight.numel() >= LEAST_TERMS


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return result
