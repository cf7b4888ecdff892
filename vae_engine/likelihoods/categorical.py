"""Cells that hold a code: unordered and ordered categories."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family


class Categorical(Family):
    """p(x = k | z) = softmax(logits)_k, for each column its own number of categories."""

    def __init__(
        self, columns: Sequence[Column], frequencies: Sequence[Float[Tensor, " _"]]
    ) -> None:
        super().__init__()
        self.categories = [column.categories for column in columns]
        self.outputs = sum(self.categories)
        self.frequencies = frequencies

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log softmax at the code of each cell."""
        codes = x.long().expand(len(outputs), *x.shape)
        columns = [
            logits.log_softmax(-1).gather(-1, codes[..., k, None])
            for k, logits in enumerate(outputs.split(self.categories, -1))
        ]
        return torch.cat(columns, -1)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the most probable code of each column."""
        modes = [logits.argmax(-1) for logits in outputs.split(self.categories, -1)]
        return torch.stack(modes, -1).to(outputs.dtype)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Gumbel's trick: argmax of logits + Gumbel noise is a draw from the softmax."""
        return self.mean(outputs + gumbel_like(outputs, generator))

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Log frequencies of the training codes."""
        return torch.cat([share.log() for share in self.frequencies])


class Ordinal(Family):
    """P(x <= k | z) = sigmoid(threshold_k - m(z)); thresholds learned for each column.

    One decoder output a column, however many categories. `densities.ordinal_logits` has the
    masses.
    """

    def __init__(
        self, columns: Sequence[Column], frequencies: Sequence[Float[Tensor, " _"]]
    ) -> None:
        super().__init__()
        self.outputs = len(columns)
        first, gaps = [], []
        for share in frequencies:
            cuts = torch.logit(share.cumsum(0)[:-1].clamp(1e-4, 1 - 1e-4))
            first.append(cuts[:1])
            gaps.append(nn.Parameter(_inverse_softplus(cuts.diff().clamp(min=1e-2))))
        self.first = nn.Parameter(torch.cat(first))
        self.gaps = nn.ParameterList(gaps)

    def _log_masses(self, outputs: Tensor, k: int) -> Tensor:
        """Log masses of the codes of column k: (samples, rows, categories)."""
        steps = functional.softplus(self.gaps[k]) + 1e-6  # strictly increasing, come what may
        thresholds = self.first[k] + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        return densities.ordinal_logits(outputs[..., k], thresholds)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log mass of the code of each cell."""
        codes = x.long().expand(len(outputs), *x.shape)
        columns = [
            self._log_masses(outputs, k).gather(-1, codes[..., k, None])
            for k in range(self.outputs)
        ]
        return torch.cat(columns, -1)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the most probable code of each column."""
        modes = [self._log_masses(outputs, k).argmax(-1) for k in range(self.outputs)]
        return torch.stack(modes, -1).to(outputs.dtype)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw a code from the masses of each column."""
        draws = []
        for k in range(self.outputs):
            log_masses = self._log_masses(outputs, k)
            draws.append((log_masses + gumbel_like(log_masses, generator)).argmax(-1))
        return torch.stack(draws, -1).to(outputs.dtype)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """0: the thresholds alone carry the train frequencies."""
        return torch.zeros(self.outputs)


def gumbel_like(logits: Float[Tensor, "*a"], generator: torch.Generator) -> Float[Tensor, "*a"]:
    """Draw -log(-log u) for each logit; u stays off 0 and 1."""
    u = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    return -(-(u.clamp(1e-20, 1 - 1e-7)).log()).log()


def _inverse_softplus(y: Float[Tensor, " gaps"]) -> Float[Tensor, " gaps"]:
    return y + torch.log(-torch.expm1(-y))
