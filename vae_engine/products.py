"""Products of float32 matrices on a CPU, each by the faster of the two libraries PyTorch has.

`torch.mm` asks MKL, which lets threads share the rows of a product, and a minibatch has few of
them. oneDNN shares the columns too and knows more processors: it is ahead by a tenth to a third
where a product is large, and behind where a call costs more than the product. On AMD's, MKL leaves
the widest instructions out: where they are twice as fast, it is behind much earlier, and where there
are none, never.
"""

import math
import re
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST_TERMS = 10e6  # multiplications from which oneDNN is ahead
LEAST_TERMS_AMD = 1.5e6  # whose units are as wide as AVX-512
WIDE_FAMILY = 26  # Zen 5; before it, AMD's units took AVX-512 in two halves
IN_ONEDNN = {"tanh": "tanh", "relu": "relu", "silu": "swish", "gelu": "gelu"}  # to its names
ONEDNN = torch.backends.mkldnn.is_available()  # not built into every PyTorch
HALVES = ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # from AVX-512 on


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
    return large(x.numel() // x.shape[-1], weight)


def affine(
    bias: Float[Tensor, " outputs"],
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    room: Float[Tensor, "rows outputs"],
    activation: str = "none",
    *,
    half: bool = False,
) -> Float[Tensor, "rows outputs"]:
    """Return f(x W^T + b): in `room`, or as a tensor of its own, where oneDNN is asked.

    Any f but "none", of the names of oneDNN, is for products that it is asked for; so is `half`,
    which rounds factors and result to bfloat16 where oneDNN can. Sums have float32's digits.
    """
    if large(len(x), weight):
        return _by_onednn(x, weight, bias, activation, half=half)
    assert activation == "none"
    return torch.addmm(bias, x, weight.t(), out=room)


def back_through(
    slopes: Float[Tensor, "rows outputs"],
    weight: Float[Tensor, "outputs inputs"],
    room: Float[Tensor, "rows inputs"],
    *,
    half: bool = False,
) -> Float[Tensor, "rows inputs"]:
    """Return slopes W, the slopes by the inputs of an affine map: in `room`, or see `affine`."""
    if large(len(slopes), weight):
        return _by_onednn(slopes, weight.t(), None, half=half)
    return torch.mm(slopes, weight, out=room)


def gradient_of_weight(
    slopes: Float[Tensor, "rows outputs"],
    x: Float[Tensor, "rows inputs"],
    room: Float[Tensor, "outputs inputs"],
    *,
    half: bool = False,
) -> Float[Tensor, "outputs inputs"]:
    """Return slopes^T x, the slopes by the weight of an affine map: in `room`, or see `affine`."""
    if large(len(x), room):
        return _by_onednn(slopes.t(), x.t(), None, half=half)
    return torch.mm(slopes.t(), x, out=room)


def large(rows: int, weight: Tensor) -> bool:
    """Whether oneDNN is asked for the product of so many rows with a weight."""
    return ONEDNN and rows * weight.numel() >= least_terms()


@cache
def processor() -> str:
    """Return what Linux says of the processor; elsewhere nothing."""
    cpu = Path("/proc/cpuinfo")
    return cpu.read_text("utf-8", "replace") if cpu.is_file() else ""


def mkl_uses_all_of(cpu: str) -> bool:
    """Whether MKL takes the widest instructions of this processor: not AMD's AVX-512."""
    return "AuthenticAMD" not in cpu or "avx512f" not in cpu


@cache
def least_terms() -> float:
    """From how many multiplications oneDNN is ahead of MKL on this processor."""
    return least_terms_of(processor())


def least_terms_of(cpu: str) -> float:
    """The same of a processor as Linux describes it."""
    if "AuthenticAMD" not in cpu:
        return LEAST_TERMS
    if "avx512f" not in cpu:
        return math.inf
    family = re.search(r"cpu family\s*:\s*(\d+)", cpu)
    return LEAST_TERMS_AMD if family and int(family[1]) >= WIDE_FAMILY else LEAST_TERMS


def _by_onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    *,
    half: bool = False,
) -> Tensor:
    if half and HALVES:
        x, weight = x.bfloat16(), weight.bfloat16()
        bias = None if bias is None else bias.bfloat16()
    # "none" again: the GELU that is exact.
    ask = torch.ops.mkldnn._linear_pointwise.default
    result: Tensor = ask(x, weight, bias, activation, [], "none")
    return result.float()
