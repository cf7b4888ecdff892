"""Products of float32 matrices on a CPU, each by the faster of the two libraries PyTorch has.

`torch.mm` asks MKL, which lets threads share the rows of a product, and a minibatch has few of
them. oneDNN shares the columns too and knows more processors: it is ahead by a tenth to a third
where a product is large, and behind where a call costs more than the product.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_TERMS = 10_000_000  # multiplications from which oneDNN is ahead
ONEDNN = torch.backends.mkldnn.is_available()  # not built into every PyTorch


def affine(
    bias: Float[Tensor, " outputs"],
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    out: Float[Tensor, "rows outputs"],
) -> None:
    """Write x W^T + b into `out`."""
    if _large(x, weight):
        out.copy_(torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], ""))
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def back_through(
    slopes: Float[Tensor, "rows outputs"],
    weight: Float[Tensor, "outputs inputs"],
    out: Float[Tensor, "rows inputs"],
) -> None:
    """Write slopes W, the slopes by the inputs of an affine map, into `out`."""
    if _large(slopes, weight):
        transposed = weight.t()
        out.copy_(
            torch.ops.mkldnn._linear_pointwise.default(slopes, transposed, None, "none", [], "")
        )
    else:
        torch.mm(slopes, weight, out=out)


def _large(rows: Tensor, weight: Tensor) -> bool:
    return ONEDNN and len(rows) * weight.numel() >= LEAST_TERMS
