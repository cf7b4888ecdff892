"""Limits on what a network may say, through which a gradient always finds back.

A clamp kills: one large first step (Adagrad's moves every weight by its full rate) puts a unit
beyond the limit, where its gradient is 0, and it never returns. These two bend instead.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def squashed(x: Float[Tensor, "*a"], low: float, high: float) -> Float[Tensor, "*a"]:
    """Keep x within (low, high), around 0: x / (1 + |x / limit|).

    Slope 1 at 0, and 1 / (1 + |x / limit|)^2 elsewhere: at ten times the limit still 1 %.
    """
    ratio = torch.maximum(x / low, x / high)  # the one that is not negative
    return x / (1 + ratio)


def straightened(x: Float[Tensor, "*a"], limit: float) -> Float[Tensor, "*a"]:
    """Return x below the limit, limit + log(1 + x - limit) above it.

    So exp(x) goes on along its tangent, and does not overflow.
    """
    return torch.where(x > limit, limit + (x - limit).clamp(min=0).log1p(), x)
