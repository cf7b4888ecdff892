"""Full variational Bayes: the decoder's weights have a posterior too.  Appendix F.

    q(theta) = N(mean, diag stddev^2),  p(theta) = N(0, I)

The means are the model's own parameters, so that everything else of this package (features,
reconstructions, estimates) speaks of the model at the posterior's mean; the standard deviations
live in the module below.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from vae_engine.model import VAE
from vae_engine.objectives import elbo

Weights = dict[str, Tensor]


def draw_weight_noise(model: VAE, generator: torch.Generator) -> Weights:
    """Draw zeta ~ N(0, I) for every generative parameter."""
    return {
        name: torch.randn(
            parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype
        )
        for name, parameter in model.generative_parameters().items()
    }


def sampled_weights(model: VAE, weight_noise: Weights) -> Weights:
    """theta = mean + stddev * zeta: the reparameterization of the weights."""
    assert model.weight_log_stddev is not None
    return {
        name: parameter + model.weight_log_stddev[_key(name)].exp() * weight_noise[name]
        for name, parameter in model.generative_parameters().items()
    }


def weights_kl(model: VAE) -> Float[Tensor, ""]:
    """KL(q(theta) || N(0, I)) in nats, over all weights."""
    assert model.weight_log_stddev is not None
    terms = []
    for name, mean in model.generative_parameters().items():
        log_stddev = model.weight_log_stddev[_key(name)]
        variance = (2 * log_stddev).exp()
        terms.append(0.5 * (mean.square() + variance - 1 - 2 * log_stddev).sum())
    return torch.stack(terms).sum()


def full_bayes(
    model: VAE,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    weight_noise: Weights,
    total_rows: int,
) -> Float[Tensor, " rows"]:
    """Estimate the bound on the marginal likelihood of data and weights, as a share of each row.

    Appendix F, eqs. 18-24, divided by N:

        full_bayes(x) = elbo(x; theta) - KL(q(theta) || p(theta)) / N,  theta = g(weight_noise)

    Times N and averaged over rows, a lower bound on log p(X) with theta integrated out. Unlike
    the paper's estimator the KL of the weights is exact: both are Gaussian. One draw of the
    weights serves the whole minibatch.

    Returns:
        Nats per row; higher is better.
    """
    weights = {f"model.{name}": w for name, w in sampled_weights(model, weight_noise).items()}
    bound = functional_call(_Elbo(model), weights, (x, noise))
    return bound - weights_kl(model) / total_rows


class _Elbo(nn.Module):
    """The bound as a module, for `functional_call` to put other weights into."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return elbo(self.model, x, noise)


def _key(name: str) -> str:
    return name.replace(".", "/")
