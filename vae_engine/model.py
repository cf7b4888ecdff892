"""A latent-variable model: the protocol that every estimator asks for, and the VAE.

Two networks around a latent:

    x -> inputs -> encoder -> head -> q(z | x)          z -> decoder -> tail -> p(x | z)

Of wide tables the encoder may see the principal components of its inputs instead.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.allocation import keep_freed_memory
from vae_engine.bodies import build_decoder, build_encoder
from vae_engine.config import ConfigError, ModelConfig
from vae_engine.heads import build_head
from vae_engine.inputs import InputLayer
from vae_engine.likelihoods.rows import RowLikelihood
from vae_engine.networks import Initial, linear
from vae_engine.noise import weights_generator
from vae_engine.posteriors import Posterior
from vae_engine.priors import build_prior
from vae_engine.projection import Projection
from vae_engine.statistics import Statistics

GENERATIVE = ("decoder.", "tail.", "likelihood.", "prior.")
FIRST_LOG_STDDEV = -5.0  # of variational weights


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
        self, config: ModelConfig, statistics: Statistics | None, initial: Initial
    ) -> None:
        super().__init__()
        keep_freed_memory()
        self.config = config
        self.latents = config.total_latents
        self.inputs = InputLayer(config, initial)
        self.projection = self._projection(statistics, initial)
        width = self.inputs.width if self.projection is None else self.projection.width
        self.encoder = build_encoder(config, self.inputs, width, initial)
        self.family = build_head(config, initial)
        self.head = linear(self.encoder.outputs, self.family.outputs, initial)
        self.likelihood = RowLikelihood(config, statistics)
        self.decoder, self.tail = build_decoder(config, self.likelihood, initial)
        with torch.no_grad():
            self.tail.bias.copy_(self.likelihood.initial_outputs())
        self.prior = build_prior(
            config,
            initial,
            self._pseudo_inputs(statistics, width, initial),
            self.posterior_of_inputs,
        )
        self.standard_prior = self.prior.standard
        self.weight_log_stddev: nn.ParameterDict | None = None
        if config.weights == "variational":
            generative = self.generative_parameters().items()
            self.weight_log_stddev = nn.ParameterDict(
                {
                    name.replace(".", "/"): torch.full_like(p, FIRST_LOG_STDDEV)
                    for name, p in generative
                }
            )

    def posterior(self, x: Shaped[Tensor, "rows features"]) -> Posterior:
        """q(z | x) of each row.  Eq. 9 and appendix C."""
        return self.posterior_of_inputs(self.seen(x))

    def seen(self, x: Shaped[Tensor, "rows features"]) -> Float[Tensor, "rows width"]:
        """Return what the encoder's first layer sees: the inputs, or components of them."""
        inputs = self.inputs(x, self.head.weight.dtype)
        return inputs if self.projection is None else self.projection(inputs)

    def posterior_of_inputs(self, inputs: Float[Tensor, "rows width"]) -> Posterior:
        """q(z | x) from what the encoder's first layer sees."""
        return self.posterior_of_hidden(self.encoder(inputs))

    def posterior_of_hidden(self, hidden: Float[Tensor, "rows outputs"]) -> Posterior:
        """q(z | x) from the last hidden layer of the encoder."""
        outputs = self.head(hidden)
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # posteriors and their KL are taken in full precision
        return self.family(outputs)

    def decode(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows outputs"]:
        """Return the parameters of p(x | z) as one vector for each draw of each row."""
        return self.tail(self.decoder(z[..., : self.config.latents]))

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
        return self.dream(rows, generator)[0]

    @torch.no_grad()
    def dream(
        self, rows: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "rows features"], Float[Tensor, "rows latents"]]:
        """Draw rows together with the z they came from: z is then one exact draw of p(z | x)."""
        z = self.prior.sample(rows, generator).to(self.head.weight.dtype)
        return self.likelihood.sample(self.decode(z[None]), generator)[0], z

    def measured(self) -> list[Tensor]:
        """Return what was found from training rows, and no step of training changes."""
        projection = self.projection
        return [] if projection is None else [projection.centre, projection.directions]

    def generative_parameters(self) -> dict[str, nn.Parameter]:
        """Return theta by name: what p(z) p(x | z) depends on, and nothing of q."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith(GENERATIVE) and name != "prior.pseudo_inputs"
        }

    def _projection(self, statistics: Statistics | None, initial: Initial) -> Projection | None:
        """Return the map to the components of training rows; a random one where none are known.

        Components take the place of vectors wider than they are many; where there is none, of
        all columns but those whose inputs are learned.
        """
        components, columns = self.config.principal_components, self.config.columns
        if not components:
            return None
        owners = self.inputs.owners
        vectors = [j for j, k in enumerate(owners) if columns[k].width > components]
        projected = vectors or range(self.inputs.fixed)
        if not projected:
            return None
        projection = Projection(self.inputs.width, projected, components, initial.generator)
        if statistics is not None and len(statistics.examples):
            projection.measure(self.inputs(statistics.examples, torch.float32))
        return projection

    @torch.no_grad()
    def _pseudo_inputs(
        self, statistics: Statistics | None, width: int, initial: Initial
    ) -> Float[Tensor, "components width"] | None:
        """Return training rows for a VampPrior to begin from; noise where none are known."""
        if self.config.prior != "vamp":
            return None
        components = self.config.components
        if statistics is None or not len(statistics.examples):
            return torch.randn(components, width, generator=initial.generator)
        rows = self.seen(statistics.examples)
        return rows[torch.arange(components) % len(rows)].clone()


def build_model(config: ModelConfig, *, seed: int, statistics: Statistics | None = None) -> VAE:
    """Build a VAE whose initial weights are a function of (config, seed, statistics).

    Raises:
        ConfigError: a Bernoulli column holds grey values and says no binarization: such a
            "likelihood" is not one, and its number compares with nothing.
    """
    for column in config.columns:
        grey = statistics is not None and column.name in statistics.grey
        if grey and column.binarization == "none":
            raise ConfigError(
                f"column {column.name!r} holds values between 0 and {column.scale}, which have no "
                f"Bernoulli likelihood. Set its binarization to 'dynamic', 'static' or "
                f"'threshold', or its likelihood to 'gaussian'."
            )
    return VAE(config, statistics, Initial(weights_generator(seed), config.initial_stddev))
