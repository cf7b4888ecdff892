"""Cells that hold a code: unordered and ordered categories."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family
from vae_engine.likelihoods.paced import Paced

PADDED = 4  # how many times its own size a table of columns may have


class Table(nn.Module):
    """Columns of codes, a row each and as wide as the widest: a few operations do for all."""

    columns: Tensor
    places: Tensor
    beyond: Tensor

    def __init__(self, members: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        widest = max(sizes[k] for k in members)
        starts = [sum(sizes[:k]) for k in members]
        places = [
            [start + min(j, sizes[k] - 1) for j in range(widest)]
            for k, start in zip(members, starts, strict=True)
        ]
        beyond = [[j >= sizes[k] for j in range(widest)] for k in members]
        self.members = list(members)
        self.register_buffer("columns", torch.tensor(self.members), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.register_buffer("beyond", torch.tensor(beyond), persistent=False)
        self.even = not bool(self.beyond.any())

    def of(self, outputs: Float[Tensor, "*a outputs"]) -> Float[Tensor, "*a columns widest"]:
        """Return the outputs of each column, and -inf beyond its categories."""
        table = outputs.index_select(-1, self.places.flatten())
        table = table.unflatten(-1, self.places.shape)
        return table if self.even else table.masked_fill(self.beyond, -torch.inf)


def tables(sizes: Sequence[int]) -> list[Table]:
    """Gather columns, the narrowest first, while padding does not cost more than it saves."""
    groups: list[list[int]] = []
    for k in sorted(range(len(sizes)), key=lambda k: sizes[k]):
        together = [*groups[-1], k] if groups else [k]
        if groups and sizes[k] * len(together) <= PADDED * sum(sizes[m] for m in together):
            groups[-1] = together
        else:
            groups.append([k])
    return [Table(group, sizes) for group in groups]


class Categorical(Family):
    """p(x = k | z) = softmax(logits)_k, for each column its own number of categories."""

    order: Tensor

    def __init__(
        self, columns: Sequence[Column], frequencies: Sequence[Float[Tensor, " _"]]
    ) -> None:
        super().__init__()
        self.categories = [column.categories for column in columns]
        self.outputs = sum(self.categories)
        self.frequencies = frequencies
        self.tables = nn.ModuleList(tables(self.categories))
        members = [k for table in self._tables() for k in table.members]
        self.register_buffer("order", torch.tensor(members).argsort(), persistent=False)

    def _tables(self) -> list[Table]:
        return [table for table in self.tables if isinstance(table, Table)]

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log softmax at the code of each cell."""
        codes = x.long().expand(len(outputs), *x.shape)
        found = []
        for table in self._tables():
            log_masses = table.of(outputs).log_softmax(-1)
            cells = codes.index_select(-1, table.columns)
            found.append(log_masses.gather(-1, cells[..., None])[..., 0])
        return torch.cat(found, -1)[..., self.order]

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the most probable code of each column."""
        modes = [table.of(outputs).argmax(-1) for table in self._tables()]
        return torch.cat(modes, -1)[..., self.order].to(outputs.dtype)

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
            gaps.append(Paced(_inverse_softplus(cuts.diff().clamp(min=1e-2))))
        self.first = Paced(torch.cat(first))
        self.gaps = nn.ModuleList(gaps)

    def _thresholds(self, k: int) -> Tensor:
        """Return the cuts of column k, rising."""
        steps = functional.softplus(self.gaps[k]()) + 1e-6  # strictly increasing, come what may
        return self.first()[k] + torch.cat([steps.new_zeros(1), steps.cumsum(0)])

    def _log_masses(self, outputs: Tensor, k: int) -> Tensor:
        """Log masses of the codes of column k: (samples, rows, categories)."""
        return densities.ordinal_logits(outputs[..., k], self._thresholds(k))

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log mass of the code of each cell, between the two cuts around it.

        The formula is that of `densities.ordinal_logits`; at an end, one cut is infinite.
        """
        codes = x.long()
        end = outputs.new_full((1,), torch.inf)
        cuts = [torch.cat([-end, self._thresholds(k), end]) for k in range(self.outputs)]
        lower = torch.stack([cut[codes[:, k]] for k, cut in enumerate(cuts)], -1)
        upper = torch.stack([cut[codes[:, k] + 1] for k, cut in enumerate(cuts)], -1)
        below, above = (
            functional.logsigmoid(upper - outputs),
            functional.logsigmoid(outputs - lower),
        )
        return below + above + torch.log(-torch.expm1(lower - upper))

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
