"""A latent-variable model: the protocol that every estimator asks for, and the VAE.

Two networks around a latent: q(z | x) = posterior(encoder(x)), p(x | z) = likelihood(decoder(z)).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.config import ConfigError, ModelConfig
from vae_engine.inputs import InputLayer
from vae_engine.likelihoods.rows import RowLikelihood
from vae_engine.networks import MLP, linear
from vae_engine.noise import weights_generator
from vae_engine.posteriors import DiagonalNormal, Posterior
from vae_engine.priors import StandardNormal
from vae_engine.statistics import Statistics

LOG_STDDEV_RANGE = (-11.0, 6.0)  # of a posterior: its square stays a normal float32


@runtime_checkable
class LatentModel(Protocol):
    """p(z) p(x | z) and q(z | x): all that the bounds and estimators of this package use."""

    latents: int
    standard_prior: bool  # p(z) is N(0, I): a posterior's closed form KL is that of this model

    def posterior(self, x: Shaped[Tensor, "rows features"]) -> Posterior:
        """q(z | x) of each row."""
        ...

    def log_prior(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(z)."""
        ...

    def log_likelihood(
        self, x: Shaped[Tensor, "rows features"], z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(x | z) of the observed cells, in nats."""
        ...


class VAE(nn.Module):
    """The auto-encoder of Kingma & Welling (2013) for rows of any mix of columns."""

    def __init__(
        self, config: ModelConfig, statistics: Statistics | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.latents = config.latents
        self.inputs = InputLayer(config)
        self.encoder = MLP(self.inputs.width, config.hidden, config.activation, generator)
        self.head = linear(self.encoder.outputs, 2 * config.latents, generator)
        self.prior = StandardNormal(config.latents)
        self.standard_prior = self.prior.standard
        self.decoder = MLP(config.latents, config.hidden[::-1], config.activation, generator)
        self.likelihood = RowLikelihood(config, statistics)
        self.tail = linear(self.decoder.outputs, self.likelihood.outputs, generator)
        with torch.no_grad():
            self.tail.bias.copy_(self.likelihood.initial_outputs())

    def posterior(self, x: Shaped[Tensor, "rows features"]) -> DiagonalNormal:
        """q(z | x) of each row.  Eq. 9 and appendix C."""
        hidden = self.encoder(self.inputs(x, self.head.weight.dtype))
        mean, log_stddev = _full_precision(self.head(hidden)).chunk(2, -1)
        return DiagonalNormal(mean, log_stddev.clamp(*LOG_STDDEV_RANGE).exp())

    def decode(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows outputs"]:
        """Return the parameters of p(x | z) as one vector for each draw of each row."""
        return self.tail(self.decoder(z))

    def log_prior(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(z)."""
        return self.prior.log_prob(z)

    def log_likelihood(
        self, x: Shaped[Tensor, "rows features"], z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(x | z) of the observed cells, in nats."""
        return self.likelihood.log_prob(x, self.decode(z))

    def log_likelihood_per_column(
        self, x: Shaped[Tensor, "rows features"], z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows columns"]:
        """log p(x | z) of each column; a missing cell adds 0."""
        return self.likelihood.log_prob_per_column(x, self.decode(z))

    def reconstruct(self, z: Float[Tensor, "rows latents"]) -> Float[Tensor, "rows features"]:
        """E[x | z] in the encoding of `x`: raw intensities for pixels, modes for codes."""
        return self.likelihood.mean(self.decode(z[None]))[0]

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows features"]:
        """Draw rows from the model: z ~ p(z), x ~ p(x | z)."""
        z = self.prior.sample(rows, generator).to(self.head.weight.dtype)
        return self.likelihood.sample(self.decode(z[None]), generator)[0]


def build_model(config: ModelConfig, *, seed: int, statistics: Statistics | None = None) -> VAE:
    """Build a VAE whose initial weights are a function of (config, seed, statistics).

    Raises:
        ConfigError: a Bernoulli column holds grey values and says no binarization: such a
            "likelihood" is not one, and its number compares with nothing.
    """
    for column in config.columns:
        if (
            statistics is not None
            and column.name in statistics.grey
            and column.binarization == "none"
        ):
            raise ConfigError(
                f"column {column.name!r} holds values between 0 and {column.scale}, which have no "
                f"Bernoulli likelihood. Set its binarization to 'dynamic', 'static' or "
                f"'threshold', or its likelihood to 'gaussian'."
            )
    return VAE(config, statistics, weights_generator(seed))


def _full_precision(outputs: Tensor) -> Tensor:
    """Leave autocast: posteriors and their KL are taken in float32 or better."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
