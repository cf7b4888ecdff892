"""Log densities as plain functions: tensors in, nats out, elementwise, any shapes that broadcast.

Written on logits and log scales, so that no probability is ever clamped. `torch.distributions`
is their oracle in the tests; it is not used here because its checks make the CPU wait for the
device, and because a step should take few passes over memory.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)
STIRLING_FROM = 16.0  # three terms are within 1e-9 from here


def bernoulli(x: Float[Tensor, "*#a"], logits: Float[Tensor, "*#a"]) -> Float[Tensor, "*a"]:
    """log p^x (1 - p)^(1 - x) = x logits - softplus(logits), p = sigmoid(logits).  Eq. 11."""
    logits, x = torch.broadcast_tensors(logits, x)
    return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none")


def normal(
    x: Float[Tensor, "*#a"], mean: Float[Tensor, "*#a"], log_scale: Float[Tensor, "*#a"]
) -> Float[Tensor, "*a"]:
    """log N(x; mean, scale^2).  Eq. 12."""
    return -0.5 * ((x - mean) * (-log_scale).exp()).square() - log_scale - 0.5 * LOG_2PI


def standard_normal(x: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
    """log N(x; 0, 1)."""
    return -0.5 * (x.square() + LOG_2PI)


def student_t(
    x: Float[Tensor, "*#a"],
    freedom: Float[Tensor, "*#a"],
    mean: Float[Tensor, "*#a"],
    log_scale: Float[Tensor, "*#a"],
) -> Float[Tensor, "*a"]:
    """log of Student's t with `freedom` degrees of freedom, shifted by mean, stretched by scale."""
    standardized = (x - mean) * (-log_scale).exp()
    half = 0.5 * (freedom + 1)
    constant = (
        torch.lgamma(half) - torch.lgamma(0.5 * freedom) - 0.5 * (math.pi * freedom).log()
    )
    return constant - log_scale - half * torch.log1p(standardized.square() / freedom)


def poisson(x: Float[Tensor, "*#a"], log_rate: Float[Tensor, "*#a"]) -> Float[Tensor, "*a"]:
    """log of rate^x e^-rate / x!."""
    return x * log_rate - log_rate.exp() - torch.lgamma(x + 1)


def negative_binomial(
    x: Float[Tensor, "*#a"], log_mean: Float[Tensor, "*#a"], log_total: Float[Tensor, "*#a"]
) -> Float[Tensor, "*a"]:
    """log of the Poisson whose rate is Gamma(total, mean / total): variance mean + mean^2/total.

    With logits = log_mean - log_total:
        lgamma(x + total) - lgamma(total) - lgamma(x + 1) + x logits - (x + total) softplus(logits)
    """
    total, logits = log_total.exp(), log_mean - log_total
    ways = log_rising(total, x) - torch.lgamma(x + 1)
    return ways + x * logits - (x + total) * functional.softplus(logits)


def log_rising(total: Float[Tensor, "*#a"], x: Float[Tensor, "*#a"]) -> Float[Tensor, "*a"]:
    """lgamma(x + total) - lgamma(total), for whole x: log of total (total + 1) .. (total + x - 1).

    The two nearly cancel where the total is large, so there Stirling's series is subtracted from
    itself term by term (Abramowitz & Stegun 6.1.41), within 1e-9.
    """
    near, far = total.clamp(max=STIRLING_FROM), total.clamp(min=STIRLING_FROM)
    direct = torch.lgamma(x + near) - torch.lgamma(near)
    series = (x + far - 0.5) * torch.log1p(x / far) + x * (far.log() - 1)
    series = series + _rest_of_stirling(x + far) - _rest_of_stirling(far)
    return torch.where(total < STIRLING_FROM, direct, series)


def _rest_of_stirling(y: Tensor) -> Tensor:
    return (1 / 12 - 1 / (360 * y.square())) / y


def ordinal_logits(
    location: Float[Tensor, "*a"], thresholds: Float[Tensor, " cuts"]
) -> Float[Tensor, "*a categories"]:
    """Log masses of codes 0..cuts under P(code <= k) = sigmoid(threshold_k - location).

    McCullagh (1980), the proportional-odds model. The mass between two cuts a < b,
    sigmoid(b) - sigmoid(a), is taken as log_sigmoid(b) + log_sigmoid(-a) + log(1 - e^(a - b)),
    which is exact where the difference would cancel. Thresholds must increase.
    """
    upper = thresholds - location[..., None]
    first, last = functional.logsigmoid(upper[..., :1]), functional.logsigmoid(-upper[..., -1:])
    widths = torch.log(-torch.expm1(thresholds[:-1] - thresholds[1:]))
    middle = functional.logsigmoid(upper[..., 1:]) + functional.logsigmoid(-upper[..., :-1])
    return torch.cat([first, middle + widths, last], -1)


def continuous_bernoulli(
    x: Float[Tensor, "*#a"], logits: Float[Tensor, "*#a"]
) -> Float[Tensor, "*a"]:
    """log of l e^(l x) / (e^l - 1) on [0, 1]: the Bernoulli made a density of grey values.

    Loaiza-Ganem & Cunningham (2019), whose constant C(p) is l / tanh(l / 2) in logits.
    """
    return x * logits - log_tilt(logits)


def log_tilt(logits: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
    """log((e^l - 1) / l), by its series near 0 and without overflow far from it."""
    near = logits.abs() < 0.5  # the series' next term, l^6 / 181440, is below 1e-7 here
    square = logits.square()
    series = 0.5 * logits + square / 24 - square.square() / 2880
    size = torch.where(near, 1.0, logits.abs())  # keeps the unused branch finite
    far = logits.clamp(min=0) + torch.log(-torch.expm1(-size) / size)
    return torch.where(near, series, far)


def zero_inflated(
    x: Float[Tensor, "*#a"], log_mass: Float[Tensor, "*#a"], gate: Float[Tensor, "*#a"]
) -> Float[Tensor, "*a"]:
    """log of pi [x = 0] + (1 - pi) mass(x), with pi = sigmoid(gate)."""
    counted = functional.logsigmoid(-gate) + log_mass
    return torch.where(x == 0, torch.logaddexp(functional.logsigmoid(gate), counted), counted)


def discretized_logistic(
    x: Float[Tensor, "*#a"],
    mean: Float[Tensor, "*#a"],
    log_scale: Float[Tensor, "*#a"],
    highest: Float[Tensor, "*#a"],
) -> Float[Tensor, "*a"]:
    """Log mass of the integer x in 0..highest under a logistic, rounded; Salimans et al. (2017).

    The bins of 0 and of `highest` reach to infinity, so that the masses sum to one. Mean and scale
    are in units of x. See `ordinal_logits` for the difference of two sigmoids.
    """
    precision = (-log_scale).exp()
    upper, lower = (x + 0.5 - mean) * precision, (x - 0.5 - mean) * precision
    below, above = functional.logsigmoid(upper), functional.logsigmoid(-lower)
    between = below + above + torch.log(-torch.expm1(-precision))
    return torch.where(x <= 0, below, torch.where(x >= highest, above, between))
