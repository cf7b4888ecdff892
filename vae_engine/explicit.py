"""The gradient of an MLP's ELBO written out: how a step of training on a CPU goes quickly.

Autograd is left with one thing, the likelihood of anything but black and white pixels. A step is
three pieces of work:

    rows      each share of the rows goes through both networks and back
    layers    each worker takes the gradients of the layers that it owns, over all rows
    update    and moves their weights

Alone, there is one share, and PyTorch may use several threads for each product. With workers
(`vae_engine.workers`), how the rows are shared is a function of their number, and no sum crosses
two workers, so that the number of workers changes no bit of the result.
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.ascent import Cost
from vae_engine.bernoulli_rows import bernoulli_block
from vae_engine.chain import Chain, Layer, aten
from vae_engine.config import TrainingPlan
from vae_engine.heads import LOG_STDDEV_RANGE
from vae_engine.model import VAE
from vae_engine.networks import MLP
from vae_engine.optimizers import fused_update, gradients_of
from vae_engine.workers import Workers, one_thread, share_count

LOW, HIGH = LOG_STDDEV_RANGE
ONE = torch.ones(())


def applies(model: VAE, plan: TrainingPlan) -> bool:
    """Whether this is the plain ELBO of an MLP with a diagonal posterior, on a CPU."""
    config = model.config
    return (
        plan.objective == "elbo"
        and torch.device(plan.device).type == "cpu"
        and not plan.weight_prior
        and not (plan.free_nats and black_and_white(model))  # a share sees no whole batch
        and (config.network, config.posterior, config.prior) == ("mlp", "diagonal", "standard")
        and config.upper_latents is None
        and model.inputs.vectors is None
    )


class Share(NamedTuple):
    """Some rows of a batch, and their places in the buffers."""

    rows: slice
    encoder: Chain
    decoder: Chain
    of_mean: Tensor  # (rows, latents): the slopes of the two halves of the encoder's outputs
    of_raw: Tensor
    moments: Tensor  # (rows, 2 latents): mean and standard deviation
    stddev: Tensor  # the second half of them
    z: Tensor  # (samples, rows, latents)
    draws: Tensor  # (samples times rows, latents): the same

    @classmethod
    def of(cls, rows: slice, encoder: Chain, decoder: Chain, draws: Tensor) -> "Share":
        """Name the parts of these buffers, and make room for the moments."""
        of_mean, of_raw = encoder.slopes[-1].chunk(2, -1)
        moments = torch.empty_like(encoder.x[-1])
        stddev = moments.chunk(2, -1)[1]
        z = draws.view(-1, len(moments), draws.shape[-1])
        return cls(rows, encoder, decoder, of_mean, of_raw, moments, stddev, z, draws)


class Batch(NamedTuple):
    """The places of a whole batch, and of its shares."""

    encoder: Chain
    decoder: Chain
    z: Tensor  # (draws, latents)
    shares: list[Share]


class Task(NamedTuple):
    """A layer of one of the two networks, and who takes its gradient."""

    worker: int
    of_decoder: bool
    k: int


class ExplicitGradient:
    """Gradients and updates of one model, in buffers that every step uses again."""

    def __init__(
        self,
        model: VAE,
        plan: TrainingPlan,
        optimizer: torch.optim.Optimizer,
        workers: int | None,
    ) -> None:
        assert isinstance(model.encoder, MLP)
        assert isinstance(model.decoder, MLP)
        self.model, self.plan = model, plan
        draws, half = plan.batch_rows * plan.samples, plan.precision == "bfloat16"
        self.encoder = Chain.of([*model.encoder.layers, model.head], plan.batch_rows, half=half)
        self.decoder = Chain.of([*model.decoder.layers, model.tail], draws, half=half)
        self.z = model.head.weight.new_empty(draws, model.latents)
        self.pixels = black_and_white(model)
        self.sharing = workers is not None
        self.workers = Workers(min(workers or 1, self._shares(draws)))
        self.shared = list(model.likelihood.parameters())  # by rows: scales, thresholds
        for parameter in self.shared:
            parameter.grad = torch.zeros_like(parameter)
        self.tasks = self._spread()
        owned: list[list[nn.Parameter]] = [[] for _ in range(self.workers.count)]
        for task in self.tasks:
            owned[task.worker] += self._layer(task).module.parameters()
        owned[0] += self.shared
        self.owned = owned
        self.updates = [fused_update(optimizer, mine, plan) for mine in owned]
        self._batches: dict[int, Batch] = {}

    def differentiate(
        self,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        step: int,
        generator: torch.Generator,  # noqa: ARG002  # nothing more is drawn
    ) -> tuple[float, float]:
        """Return the mean of the weighted bound and the norm of its gradient, which is kept."""
        samples, rows = noise.shape[:2]
        cost = Cost.at(self.plan, step)
        batch = self._batch(rows)
        with torch.no_grad():
            inputs = self.model.seen(x)
        scale = 1 / (samples * rows)
        nats = [0.0] * len(batch.shares)  # sums over the draws of each share
        squares = [0.0] * (len(self.tasks) + 1)

        def rows_of(worker: int) -> None:
            for k in range(worker, len(nats), self.workers.count):
                nats[k] = self._there_and_back(batch.shares[k], x, inputs, noise, cost, scale)

        def layers_of(worker: int) -> None:
            for k, task in enumerate(self.tasks):
                if task.worker == worker:
                    chain, below = (
                        (batch.decoder, batch.z) if task.of_decoder else (batch.encoder, inputs)
                    )
                    squares[k] = chain.write_gradient(task.k, below)

        self.workers.run(rows_of)
        self.workers.run(layers_of)
        for parameter in self.shared:
            assert parameter.grad is not None
            squares[-1] += _square(parameter.grad)
        return sum(nats) * scale, sum(squares) ** 0.5

    def alone(self) -> AbstractContextManager[None]:
        """Where workers have the cores, PyTorch has one thread inside."""
        return one_thread() if self.sharing else nullcontext()

    def settle(self) -> None:
        """Wait for the weights: they are there."""

    def update(self, rate: float, factor: float) -> None:
        """Move the weights against the gradient times `factor`."""

        def moves(worker: int) -> None:
            if not self.owned[worker]:  # there are more workers than layers
                return
            if factor != 1:
                torch._foreach_mul_(gradients_of(self.owned[worker]), factor)
            self.updates[worker](rate)

        self.workers.run(moves)

    def _there_and_back(
        self,
        share: Share,
        x: Tensor,
        inputs: Tensor,
        noise: Tensor,
        cost: Cost,
        scale: float,
    ) -> float:
        """Leave the slopes of all layers, times `scale`; return the sum of the bound over draws."""
        seen, noise = inputs[share.rows], noise[:, share.rows]
        weight = float(cost.beta) * len(noise)  # of the KL, in a sum over draws
        outputs = share.encoder.forward(seen)
        (mean, raw), stddev = outputs.chunk(2, -1), share.stddev
        shrink = torch.add(ONE, aten.leaky_relu(raw, HIGH / LOW), alpha=1 / HIGH).reciprocal_()
        log_stddev = raw * shrink  # `limits.squashed`, whose slope is shrink squared
        share.moments.copy_(outputs)
        torch.exp(log_stddev, out=stddev)
        torch.addcmul(mean, stddev, noise, out=share.z)
        pull = weight * scale  # slope of what the KL costs, of a latent where some are free
        pulled: tuple[Tensor, Tensor, Tensor | float] = mean, stddev, pull
        if cost.free_nats:
            by_latent = 0.5 * (mean.square() + stddev.square() - 1).sum(0) - log_stddev.sum(0)
            free = float(cost.free_nats) * len(mean)
            kl, paid = float(by_latent.clamp(min=free).sum()), (by_latent > free).to(mean.dtype)
            pulled = mean * paid, stddev * paid, pull * paid
        else:
            kl = 0.5 * (_square(share.moments) - raw.numel()) - float(log_stddev.sum())

        outputs = share.decoder.forward(share.draws)
        slopes = share.decoder.slopes[-1]
        if self.pixels:
            log_likelihood = bernoulli(seen, outputs, slopes, scale)
        else:
            log_likelihood = self._likelihood(x[share.rows], outputs, slopes, scale)
        share.decoder.backward()

        slopes_of_z = share.decoder.slopes_below().view(noise.shape)
        torch.add(_summed(slopes_of_z), pulled[0], alpha=pull, out=share.of_mean)
        by_stddev = _summed(slopes_of_z * noise).add_(pulled[1], alpha=pull)
        torch.mul(by_stddev.mul_(stddev).sub_(pulled[2]), shrink.square_(), out=share.of_raw)
        share.encoder.backward()
        return log_likelihood - weight * kl

    def _likelihood(self, x: Tensor, outputs: Tensor, slopes: Tensor, scale: float) -> float:
        """Write `scale` times the slopes of -log p(x | z); return its sum over draws in nats."""
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            by_draw = leaf.view(-1, len(x), leaf.shape[-1])
            nats = self.model.likelihood.log_prob(x, by_draw).sum()
            loss = -scale * nats
        found = torch.autograd.grad(loss, [leaf, *self.shared])
        slopes.copy_(found[0])
        for parameter, gradient in zip(self.shared, found[1:], strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)
        return float(nats)

    def _layer(self, task: Task) -> Layer:
        return (self.decoder if task.of_decoder else self.encoder).layers[task.k]

    def _spread(self) -> list[Task]:
        """Give each layer, the largest first, to the worker with the least to do."""
        sizes = {
            (of_decoder, k): layer.weight.numel()
            for of_decoder, chain in enumerate((self.encoder, self.decoder))
            for k, layer in enumerate(chain.layers)
        }
        loads = [0] * self.workers.count
        tasks = []
        for (of_decoder, k), size in sorted(sizes.items(), key=lambda item: -item[1]):
            worker = loads.index(min(loads))
            loads[worker] += size
            tasks.append(Task(worker, bool(of_decoder), k))
        return tasks

    def _shares(self, draws: int) -> int:
        """One, too, where autograd has a part in it, and so does much in Python, one by one."""
        return share_count(draws) if self.sharing and self.pixels else 1

    def _batch(self, rows: int) -> Batch:
        """Return the places of so many rows; a run has two such numbers, or one."""
        if rows not in self._batches:
            samples = self.plan.samples
            if samples * rows > len(self.z):  # a caller's own batches may be larger
                self.encoder = self.encoder.enlarged(rows)
                self.decoder = self.decoder.enlarged(samples * rows)
                self.z = self.z.new_empty(samples * rows, self.z.shape[1])
            encoder, decoder = self.encoder.first(rows), self.decoder.first(samples * rows)
            z, count = self.z[: samples * rows], self._shares(samples * rows)
            if count == 1:  # in the buffers of the whole, whose places results may take
                shares = [Share.of(slice(0, rows), encoder, decoder, z)]
            else:
                ends = pairwise(rows * k // count for k in range(count + 1))
                shares = [_share(encoder, decoder, z, slice(*some)) for some in ends]
            self._batches[rows] = Batch(encoder, decoder, z, shares)
        return self._batches[rows]


def _share(encoder: Chain, decoder: Chain, z: Tensor, rows: slice) -> Share:
    """These rows of a batch, and their draws: all that follow each other."""
    samples = len(z) // len(encoder.x[0])
    draws = slice(samples * rows.start, samples * rows.stop)
    return Share.of(rows, encoder.part(rows), decoder.part(draws), z[draws])


def bernoulli(
    white: Float[Tensor, "rows cells"],
    logits: Float[Tensor, "draws cells"],
    slopes: Float[Tensor, "draws cells"],
    scale: float,
) -> float:
    """Write `scale` times the slopes of -log p(x | z), sigmoid(logits) - x.

    Returns:
        log p(x | z), summed over the draws, in nats.

    `densities.bernoulli` in fewer passes over memory. Draws are all rows of the first sample,
    then all of the second.
    """
    cells = white.reshape(-1)
    aten.softplus.out(logits, out=slopes)
    by_sample = logits.view(-1, len(cells))
    nats = sum(float(torch.dot(sample, cells)) for sample in by_sample) - float(slopes.sum())
    torch.sigmoid(logits, out=slopes)
    slopes.view(-1, *white.shape).sub_(white).mul_(scale)
    return nats


def black_and_white(model: VAE) -> bool:
    """Whether the encoder sees, cell by cell, what the decoder gives the log odds of."""
    block = bernoulli_block(model)
    return block is not None and not block.masked and model.projection is None


def _summed(x: Float[Tensor, "samples rows latents"]) -> Float[Tensor, "rows latents"]:
    """Sum over samples; of one, itself."""
    return x.sum(0) if len(x) > 1 else x[0]


def _square(x: Tensor) -> float:
    """Squared length of a tensor."""
    flat = x.reshape(-1)
    return float(torch.dot(flat, flat))
