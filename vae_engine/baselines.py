"""What log p(x) is without a VAE: independent columns, and factor analysis.

Both are fitted to training rows in closed form and give log p(x) of other rows in the units of
every estimate of this package: nats per row, of the observed cells, in the original columns. A
model that does not beat the first has learned nothing about how columns belong together; one that
does not beat the second has learned nothing that is not linear.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from vae_engine.binarization import binarized_for_evaluation
from vae_engine.config import Column, ModelConfig
from vae_engine.densities import LOG_2PI
from vae_engine.likelihoods.family import log_jacobian, per_cell, unit_of
from vae_engine.likelihoods.rows import RowLikelihood
from vae_engine.statistics import Statistics

Keyed = tuple[Shaped[Tensor, "_ features"], Int64[Tensor, " _"]]  # rows of x, and their keys

# Densities on the line: what factors can mix.
REAL = ("gaussian", "gaussian_per_row", "student_t", "student_t_per_row", "log_normal")
FIVE_FREEDOM = (3 / 5) ** 0.5  # scale over spread of Student's t with 5 degrees of freedom
FIT_ROWS = 5000  # of the training rows; 784 pixels, 20 factors: some seconds
EM_STEPS = 200
ENOUGH_NATS = 1e-4  # a row: EM stops where a step gains less
FLOOR = 1e-4  # of a column's variance: a constant column must not have infinite density
BATCH_ROWS = 2048


@torch.no_grad()
def independent_columns(
    config: ModelConfig, train: Keyed, rows: Keyed, *, seed: int
) -> Float[Tensor, " rows"]:
    """log p(x) of `rows` under the model's own families with z taken away.

    Each entry keeps the parameters that `train` gives it alone: means and shares (the
    likelihood's optimum, codes counted once more than they occur), spreads, and for negative
    binomials (which the zero-inflated ones are here, too) and Student's t those that match mean
    and variance; with a spread for each row it is a normal density here. A missing cell adds 0.
    """
    config = replace(config, columns=tuple(map(_by_moments, config.columns)))
    x_train = binarized_for_evaluation(config, *train, seed)
    statistics = Statistics.of(config, x_train)
    for column, start in zip(config.columns, config.starts, strict=True):
        if column.likelihood == "student_t":
            statistics.stddev[start : start + column.width] *= FIVE_FREEDOM
    likelihood = RowLikelihood(config, statistics)
    outputs = likelihood.initial_outputs()
    x = binarized_for_evaluation(config, *rows, seed)
    return torch.cat(
        [
            likelihood.log_prob(part, outputs.expand(1, len(part), -1))[0]
            for part in x.split(BATCH_ROWS)
        ]
    )


@torch.no_grad()
def factor_analysis(
    config: ModelConfig, train: Keyed, rows: Keyed, *, latents: int, seed: int
) -> Float[Tensor, " rows"] | None:
    """log p(x) of `rows` with the real columns joined by `latents` linear factors.

        z ~ N(0, I),   y | z ~ N(W z + b, diag(noise)),   so y ~ N(b, W W' + diag(noise))

    with one noise variance for each column: factor analysis of a table, probabilistic PCA of
    an image (a variance for each pixel would be 0 at the margins, and a test row infinitely
    improbable). Fitted by EM to the observed cells of at most 5,000 training rows, and
    integrated over missing cells exactly: right where cells are missing at random. Columns of
    codes, counts and two values have masses, not densities, and stay independent.

    Returns:
        Nats per row; None where no column is real, so that there is nothing to join.
    """
    real = [k for k, column in enumerate(config.columns) if column.likelihood in REAL]
    if not real:
        return None
    y, jacobian = _real_cells(config, real, rows[0])
    widths = torch.tensor([config.columns[k].width for k in real])
    fitted = fit_factors(_real_cells(config, real, train[0][:FIT_ROWS])[0], latents, widths)
    log_prob = fitted.log_prob(y) - jacobian
    rest = [k for k in range(len(config.columns)) if k not in real]
    if rest:
        entries = _entries(config, rest)
        others = ModelConfig(columns=tuple(config.columns[k] for k in rest))
        log_prob += independent_columns(
            others, (train[0][:, entries], train[1]), (rows[0][:, entries], rows[1]), seed=seed
        )
    return log_prob.float()


def _by_moments(column: Column) -> Column:
    """The column as mean and variance describe it: they tell nothing of zeros or of tails."""
    simpler = {
        "zero_inflated_negative_binomial": "negative_binomial",
        "student_t_per_row": "gaussian_per_row",
    }
    return replace(column, likelihood=simpler.get(column.likelihood, column.likelihood))


class Factors(NamedTuple):
    """y ~ N(bias, weight weight' + diag(noise)), float64."""

    weight: Float[Tensor, "cells latents"]
    bias: Float[Tensor, " cells"]
    noise: Float[Tensor, " cells"]  # variances

    def log_prob(self, y: Float[Tensor, "rows cells"]) -> Float[Tensor, " rows"]:
        """log density of the observed cells (the others are nan), in nats per row."""
        return _expect(self, _Patterns.of(y)).log_prob


def fit_factors(
    y: Float[Tensor, "rows cells"], latents: int, widths: Int64[Tensor, " columns"]
) -> Factors:
    """Fit the factors to the observed cells of `y` by EM (Ghahramani & Hinton 1996).

    `widths` says how many neighbouring cells share one noise variance. EM starts from
    probabilistic PCA of the rows with their gaps filled by means (Tipping & Bishop 1999,
    eq. 8) and stops when a step gains less than 1e-4 nats a row; no step loses. Deterministic.
    At most one factor fewer than there are cells.
    """
    patterns = _Patterns.of(y)
    counts = patterns.observed.sum(0).clamp(min=1)
    bias = patterns.filled.sum(0) / counts
    centered = torch.where(patterns.observed, patterns.filled - bias, 0.0)
    variance = _pooled(centered.square().sum(0), patterns, widths)
    floor = FLOOR * torch.where(variance > 0, variance, 1.0)
    factors = _principal(centered, bias, torch.maximum(variance, floor), latents)
    before = -torch.inf
    for _ in range(EM_STEPS):
        expected = _expect(factors, patterns)
        now = expected.log_prob.mean().item()
        if now - before < ENOUGH_NATS:
            break
        factors, before = _maximize(expected, patterns, widths, floor), now
    return factors


class _Patterns(NamedTuple):
    """Rows with their gaps at 0, and the few distinct sets of observed cells among them."""

    filled: Float[Tensor, "rows cells"]
    observed: Bool[Tensor, "rows cells"]
    distinct: Float[Tensor, "patterns cells"]  # 1 where observed
    of_row: Int64[Tensor, " rows"]

    @classmethod
    def of(cls, y: Tensor) -> "_Patterns":
        observed = ~y.isnan()
        distinct, of_row = observed.unique(dim=0, return_inverse=True)
        return cls(y.double().nan_to_num(0.0), observed, distinct.double(), of_row)


class _Expected(NamedTuple):
    """What the rows say about their factors: the E step."""

    mean: Float[Tensor, "rows factors"]
    covariance: Float[Tensor, "patterns factors factors"]
    log_prob: Float[Tensor, " rows"]


def _expect(factors: Factors, patterns: _Patterns) -> _Expected:
    weight, bias, noise = factors
    precision_of_noise = patterns.distinct / noise
    identity = torch.eye(weight.shape[1], dtype=weight.dtype)
    precision = identity + torch.einsum("pc,cl,cm->plm", precision_of_noise, weight, weight)
    triangle = torch.linalg.cholesky(precision)
    covariance = torch.cholesky_inverse(triangle)
    residual = torch.where(patterns.observed, patterns.filled - bias, 0.0)
    pull = (residual / noise) @ weight
    mean = torch.einsum("rlm,rm->rl", covariance[patterns.of_row], pull)
    log_det = 2 * triangle.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = log_det + patterns.distinct @ (noise.log() + LOG_2PI)
    distance = (residual.square() / noise).sum(-1) - (pull * mean).sum(-1)
    return _Expected(mean, covariance, -0.5 * (constant[patterns.of_row] + distance))


def _maximize(
    expected: _Expected,
    patterns: _Patterns,
    widths: Int64[Tensor, " columns"],
    floor: Float[Tensor, " cells"],
) -> Factors:
    """Regress every cell on the factors and 1, over the rows where it was observed."""
    rows, latents = expected.mean.shape
    ones = expected.mean.new_ones(rows, 1)
    factors = torch.cat([expected.mean, ones], -1)
    moments = torch.zeros(len(patterns.distinct), latents + 1, latents + 1, dtype=ones.dtype)
    moments.index_add_(0, patterns.of_row, factors[:, :, None] * factors[:, None])
    of_pattern = patterns.of_row.bincount(minlength=len(moments))[:, None, None]
    moments[:, :latents, :latents] += of_pattern * expected.covariance
    by_cell = torch.einsum("pc,plm->clm", patterns.distinct, moments)
    products = patterns.filled.T @ factors
    by_cell += 1e-9 * torch.eye(latents + 1, dtype=ones.dtype)  # a cell never observed
    solved = torch.linalg.solve(by_cell, products)
    left = patterns.filled.square().sum(0) - (solved * products).sum(-1)
    noise = torch.maximum(_pooled(left, patterns, widths), floor)
    return Factors(solved[:, :latents], solved[:, latents], noise)


def _pooled(
    squares: Float[Tensor, " cells"], patterns: _Patterns, widths: Int64[Tensor, " columns"]
) -> Float[Tensor, " cells"]:
    """Mean square over the observed cells of a column, given to each of its cells."""
    index = torch.arange(len(widths)).repeat_interleave(widths)
    counts = patterns.observed.sum(0).double()
    sums = torch.zeros(2, len(widths), dtype=torch.float64)
    sums.index_add_(1, index, torch.stack([squares, counts]))
    return (sums[0] / sums[1].clamp(min=1))[index]


def _principal(centered: Tensor, bias: Tensor, variance: Tensor, latents: int) -> Factors:
    """Probabilistic PCA on cells that were divided by their column's spread."""
    cells = len(bias)
    latents = min(latents, max(cells - 1, 1), len(centered))
    spread = variance.sqrt()
    standard = centered / spread
    values, vectors = _principal_axes(standard, latents)
    left = standard.square().sum() / len(standard) - values.sum()
    rest = left.clamp(min=0) / (cells - latents) if cells > latents else 0.5 * values[-1]
    stretch = (values - rest).clamp(min=1e-6).sqrt()
    noise = rest.clamp(min=FLOOR) * variance
    return Factors(spread[:, None] * vectors * stretch, bias, noise)


def _principal_axes(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of x'x / rows, and their vectors as columns.

    Those of xx' / rows are the same, and its matrix is smaller where there are fewer rows than
    cells, as of pictures.
    """
    rows, cells = x.shape
    if cells <= rows:
        values, vectors = torch.linalg.eigh(x.T @ x / rows)
        return values.flip(0)[:count], vectors.flip(1)[:, :count]
    values, vectors = torch.linalg.eigh(x @ x.T / rows)
    axes = x.T @ vectors.flip(1)[:, :count]
    return values.flip(0)[:count].clamp(min=0), axes / axes.norm(dim=0).clamp(min=1e-12)


def _real_cells(
    config: ModelConfig, real: list[int], x: Tensor
) -> tuple[Float[Tensor, "rows cells"], Float[Tensor, " rows"]]:
    """Cells of the real columns, in float64, and what a row's log density owes to its units."""
    columns = [config.columns[k] for k in real]
    cells = x[:, _entries(config, real)].double()
    owed = log_jacobian(columns).double().expand(len(x), -1)
    logs = torch.cat([torch.full((c.width,), c.likelihood == "log_normal") for c in columns])
    log_value = per_cell(columns, "shift").double() + per_cell(columns, "scale") * cells
    owed = owed + torch.where(logs, log_value, 0.0)
    return cells / unit_of(columns), torch.where(cells.isnan(), 0.0, owed).sum(-1)


def _entries(config: ModelConfig, columns: list[int]) -> list[int]:
    return [config.starts[k] + j for k in columns for j in range(config.columns[k].width)]
