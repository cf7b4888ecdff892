"""log p(x | z) of whole rows of black and white pixels, where no gradient is asked for.

Importance sampling evaluates millions of rows, and after the matrix products most of the time goes
to softplus and its logarithm. Of a row only the sum is needed, so here 32 factors are multiplied
before each logarithm, in place, on logits that stay in the cache.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.likelihoods.bernoulli import Bernoulli
from vae_engine.likelihoods.rows import Block
from vae_engine.model import VAE, LatentModel

HALVINGS = 5  # factors are above 1/2: even 2 × 2^5 of them multiply to 2^-64, a normal float32


def log_likelihood_of(
    model: LatentModel, x: Shaped[Tensor, "rows features"]
) -> Callable[[Tensor], Tensor]:
    """Return z -> `model.log_likelihood(x, z)`, by the quick way where there is one.

    That is for a VAE all of whose columns are Bernoulli and rows with no missing cell, outside
    of autograd. The two ways round differently, by a few units in the last place of the sum.
    """
    block = None if torch.is_grad_enabled() else bernoulli_block(model)
    if block is None:
        return lambda z: model.log_likelihood(x, z)
    assert isinstance(model, VAE)
    assert isinstance(block.family, Bernoulli)
    white = block.cells.of(x) / block.family.unit
    if not bool(((white == 0) | (white == 1)).all()):
        return lambda z: model.log_likelihood(x, z)  # grey or missing: no sign says which it is
    signs = 2 * white - 1

    def quick(z: Float[Tensor, "samples rows latents"]) -> Float[Tensor, "samples rows"]:
        return log_sigmoid_of_rows(model.decode(z).mul_(signs))

    return quick


def log_sigmoid_of_rows(
    t: Float[Tensor, "samples rows cells"],
) -> Float[Tensor, "samples rows"]:
    """Sum over cells of log sigmoid(t): with t = +-logit, + for white cells, log p(x | z).

    Overwrites `t`. Nothing cancels in

        sum log sigmoid(t) = sum min(t, 0) + sum log sigmoid(|t|)

    where the first sum is of the cells that the decoder got wrong, and in the second every
    sigmoid lies in [1/2, 1], so that many may be multiplied before the logarithm.
    """
    wrong = t.clamp(max=0).sum(-1)
    factors = t.abs_().sigmoid_()
    for _ in range(HALVINGS):
        cells = factors.shape[-1]
        if cells < 4:
            break
        half = cells // 2
        left = factors[..., :half].mul_(factors[..., half : 2 * half])
        if cells % 2:
            left[..., 0].mul_(factors[..., -1])
        factors = left
    return factors.log().sum(-1).add_(wrong)


def bernoulli_block(model: LatentModel) -> Block | None:
    """The only block of the likelihood, if it is of Bernoulli columns."""
    if not isinstance(model, VAE) or len(model.likelihood.blocks) != 1:
        return None
    block = model.likelihood.blocks[0]
    assert isinstance(block, Block)
    return block if isinstance(block.family, Bernoulli) else None
