"""log p(x) by importance sampling, in bounded memory, with its error and a warning where it lies.

Chunks of draws and of rows are memory, never part of the answer: the noise of a row is a function
of (seed, row key, draw), and weights are summed as they come, in float64.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.bernoulli_rows import log_likelihood_of
from vae_engine.diagnostics import (
    effective_samples_of_sums,
    log_mean_stderr,
    pareto_k_of_largest,
    tail_samples,
)
from vae_engine.model import VAE, LatentModel
from vae_engine.noise import keyed_noise
from vae_engine.observation import observed

OUTPUTS_AT_ONCE = (410_000, 40_000_000)  # of the decoder, on a CPU (its cache) and on a GPU
MOST_AT_ONCE = (4096, 1_000_000)  # pairs of a row and a draw
ROWS_AT_ONCE = 512  # whose k-hat is fitted together: one by one the small calls add up
DRAWS_AT_ONCE = 2048  # of z and its densities, for each row: small calls cost more than they do


class MarginalEstimate(NamedTuple):
    """What importance sampling says about each row, in nats."""

    log_marginal_nats: Float[Tensor, " rows"]  # biased low, less so with every sample
    stderr: Float[Tensor, " rows"]  # of log_marginal_nats, by the delta method
    ess: Float[Tensor, " rows"]  # samples that count: (sum w)^2 / sum w^2
    pareto_k: Float[Tensor, " rows"]  # above 0.7, do not trust the row's estimate


class Tally(NamedTuple):
    """All that is kept of the weights of each row that have come so far; float64."""

    log_sum: Float[Tensor, " rows"]
    log_sum_squares: Float[Tensor, " rows"]
    largest: Float[Tensor, "_ rows"]  # log weights, largest first: `kept` of them, or all
    samples: int  # weights that came, for each of these rows
    kept: int

    @classmethod
    def empty(cls, rows: int, *, samples: int, device: torch.device | str = "cpu") -> "Tally":
        """Begin; at most `samples` are to come, which says how many k-hat needs to keep."""
        nothing = torch.full((rows,), -math.inf, dtype=torch.float64, device=device)
        return cls(nothing, nothing, nothing.new_empty(0, rows), 0, tail_samples(samples) + 1)

    def plus(self, log_w: Float[Tensor, "samples rows"]) -> "Tally":
        """Count some more weights of every row."""
        log_w = log_w.double()
        seen = torch.cat([self.largest, log_w])
        return Tally(
            torch.logaddexp(self.log_sum, log_w.logsumexp(0)),
            torch.logaddexp(self.log_sum_squares, (2 * log_w).logsumexp(0)),
            seen.topk(min(self.kept, len(seen)), 0).values,
            self.samples + len(log_w),
            self.kept,
        )

    def rows(self, index: Int64[Tensor, " chosen"]) -> "Tally":
        """Return the tally of some of the rows."""
        return Tally(
            self.log_sum[index],
            self.log_sum_squares[index],
            self.largest[:, index],
            self.samples,
            self.kept,
        )

    @classmethod
    def joined(cls, tallies: Sequence["Tally"]) -> "Tally":
        """Put rows side by side, all of which have had as many samples."""
        assert len({(tally.samples, tally.kept) for tally in tallies}) == 1
        return cls(
            torch.cat([tally.log_sum for tally in tallies]),
            torch.cat([tally.log_sum_squares for tally in tallies]),
            torch.cat([tally.largest for tally in tallies], 1),
            tallies[0].samples,
            tallies[0].kept,
        )

    def estimate(self) -> MarginalEstimate:
        """Return the estimate from the weights so far; k-hat is nan if too few were kept."""
        ess = effective_samples_of_sums(self.log_sum, self.log_sum_squares)
        enough = tail_samples(self.samples) < len(self.largest)
        return MarginalEstimate(
            self.log_sum - math.log(self.samples),
            log_mean_stderr(ess, self.samples),
            ess,
            pareto_k_of_largest(self.largest, self.samples)
            if enough
            else torch.full_like(ess, math.nan),
        )


def log_marginal(
    chunks_of_log_weights: Iterable[Float[Tensor, "_ rows"]],
) -> Float[Tensor, " rows"]:
    """Importance-sampling estimate of log p(x) from any number of chunks of weights.

        log p(x)  ~  log mean_s w_s          (Burda et al. 2016, section 3)

    Biased low by Jensen's inequality and consistent: the bias goes to zero as the number of
    samples grows. Chunks may differ in size; the divisor is the number of weights that came
    in, never the number that was asked for.

    Raises:
        ValueError: no chunk came in.
    """
    return summarize(chunks_of_log_weights, samples=0).log_marginal_nats


def summarize(
    chunks_of_log_weights: Iterable[Float[Tensor, "_ rows"]], *, samples: int
) -> MarginalEstimate:
    """Stream chunks of log weights into the estimate, its error, ESS and k-hat.

    `samples` is how many are to come: it says how many of the largest k-hat needs to keep, and
    nothing else. If more come, the estimate is right and k-hat is nan.

    Raises:
        ValueError: no chunk came in.
    """
    tally = None
    for log_w in chunks_of_log_weights:
        if tally is None:
            tally = Tally.empty(log_w.shape[1], samples=samples, device=log_w.device)
            dtype = log_w.dtype
        tally = tally.plus(log_w)
    if tally is None:
        raise ValueError("log_marginal needs at least one chunk of log weights; got none")
    return MarginalEstimate(*(field.to(dtype) for field in tally.estimate()))


def chunks_of_log_weights(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    *,
    seed: int,
    first: int,
    last: int,
    samples_per_chunk: int,
) -> Iterator[Float[Tensor, "_ rows"]]:
    """Yield log w of draws `first` to `last` of each row, some thousand draws at a time.

        log w_s = log p(x | z_s) + log p(z_s) - log q(z_s | x),   z_s ~ q(z | x)

    `x` is what the model sees (`observation.observed`). Call it outside of autograd.
    """
    q, log_likelihood = model.posterior(x), log_likelihood_of(model, x)
    for start in range(first, last, DRAWS_AT_ONCE):
        noise = keyed_noise(
            seed, row_keys, start, min(start + DRAWS_AT_ONCE, last), model.latents
        )
        z, log_q = q.reparameterize_with_log_prob(noise)
        parts = [log_likelihood(part) for part in z.split(samples_per_chunk)]
        yield torch.cat(parts) + model.log_prior(z) - log_q


def pairs_at_once(model: LatentModel, x: Shaped[Tensor, "rows features"]) -> int:
    """Pairs of a row and a draw whose decoder outputs stay in the cache together."""
    outputs = model.likelihood.outputs if isinstance(model, VAE) else x.shape[1]
    device = int(x.device.type == "cuda")
    return max(1, min(OUTPUTS_AT_ONCE[device] // outputs, MOST_AT_ONCE[device]))


@torch.inference_mode()
def estimate_log_marginal(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    *,
    samples: int,
    seed: int,
    rows_per_chunk: int | None = None,
    samples_per_chunk: int | None = None,
) -> MarginalEstimate:
    """Estimate log p(x) of each row from `samples` draws of q(z | x).

    Grey pixels are binarized by (seed, row key) where the model says so. The estimate of a row
    is the same, up to rounding, for any order of rows and any chunk sizes; left out, they are
    chosen for the cache.

    Raises:
        ValueError: no rows came in.
    """
    if not len(x):
        raise ValueError("estimate_log_marginal needs at least one row; got none")
    pairs = pairs_at_once(model, x)
    size = rows_per_chunk or max(1, pairs // (samples_per_chunk or samples))
    draws = samples_per_chunk or max(1, pairs // size)
    parts, tallies, waiting = [], [], 0
    for rows, keys in zip(x.split(size), row_keys.split(size), strict=True):
        tally = Tally.empty(len(rows), samples=samples, device=x.device)
        for log_w in chunks_of_log_weights(
            model,
            observed(model, rows, keys, seed),
            keys,
            seed=seed,
            first=0,
            last=samples,
            samples_per_chunk=draws,
        ):
            tally = tally.plus(log_w)
        tallies.append(tally)
        waiting += len(rows)
        if waiting >= ROWS_AT_ONCE:
            parts.append(Tally.joined(tallies).estimate())
            tallies, waiting = [], 0
    if tallies:
        parts.append(Tally.joined(tallies).estimate())
    return MarginalEstimate(
        *(torch.cat(field).to(log_w.dtype) for field in zip(*parts, strict=True))
    )
