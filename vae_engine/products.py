"""Products of float32 matrices on a CPU, each by the faster of the two libraries PyTorch has.

`torch.mm` asks MKL, which lets threads share the rows of a product, and a minibatch has few of
them. oneDNN shares the columns too and knows more processors: it is ahead by a tenth to a third
where a product is large, and behind where a call costs more than the product. On processors that
are not Intel's, MKL does not use the widest instructions, and is behind much earlier.
"""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST_TERMS = 10_000_000  # multiplications from which oneDNN is ahead
LEAST_TERMS_AMD = 1_500_000
IN_ONEDNN = {"tanh": "tanh", "relu": "relu", "silu": "swish", "gelu": "gelu"}  # to its names
ONEDNN = torch.backends.mkldnn.is_available()  # not built into every PyTorch


def applied(
    x: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "*rows outputs"]:
    """Return x W^T + b: what `functional.linear` does, which this leaves what is not its own.

    No gradient goes through oneDNN here.
    """
    if asks_onednn(x, weight):
        return _by_onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def activated(
    x: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"],
    activation: str,
) -> Float[Tensor, "*rows outputs"]:
    """Return f(x W^T + b), where oneDNN is asked and has f: no further pass over the outputs."""
    return _by_onednn(x, weight, bias, IN_ONEDNN[activation])


def asks_onednn(
    x: Float[Tensor, "*rows inputs"], weight: Float[Tensor, "outputs inputs"]
) -> bool:
    """Whether this product is large, on a CPU, and of plain float32 without a gradient."""
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if plain or {x.device.type, x.dtype, weight.dtype} != {"cpu", torch.float32}:
        return False
    return _large(x.numel() // x.shape[-1], weight)


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


def write_gradient(
    slopes: Float[Tensor, "rows outputs"],
    x: Float[Tensor, "rows inputs"],
    scale: float,
    out: Float[Tensor, "outputs inputs"],
) -> None:
    """Write `scale` slopes^T x, the slopes by the weight of an affine map, into `out`."""
    if _large(len(x), out):
        torch.mul(_by_onednn(slopes.t(), x.t(), None), scale, out=out)
    else:
        torch.addmm(out, slopes.t(), x, beta=0, alpha=scale, out=out)


@cache
def least_terms() -> int:
    """From how many multiplications oneDNN is ahead of MKL on this processor."""
    cpu = Path("/proc/cpuinfo")
    amd = cpu.is_file() and "AuthenticAMD" in cpu.read_text(encoding="utf-8", errors="replace")
    return LEAST_TERMS_AMD if amd else LEAST_TERMS


def _large(rows: int, weight: Tensor) -> bool:
    return ONEDNN and rows * weight.numel() >= least_terms()


def _by_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    # "none" again: the GELU that is exact.
    ask = torch.ops.mkldnn._linear_pointwise.default
    result: Tensor = ask(x, weight, bias, activation, [], "none")
    return result
