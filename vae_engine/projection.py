"""Principal components in the place of inputs, for tables with more columns than rows.

A first layer of 20,000 x 500 weights learns 2,000 rows by heart, and what it says of a row that it
has not seen suffers. The directions in which the training rows differ most are known without it;
an encoder that sees a row along them alone learns by heart much less.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOST_ROWS = 4096  # that the directions are found from
LEAST_VARIANCE = 1e-10  # of a direction, as a share of the first one's


class Projection(nn.Module):
    """inputs (rows, width) -> (rows, components + others): (inputs - centre) directions, others.

    `projected` are the numbers of the inputs that components take the place of; the others are
    passed on behind them. What is measured before training is saved with the weights, and no step
    changes it. All components are divided by one number, so that over the training rows their
    mean square is 1 and the first stay larger than the last.
    """

    index: Tensor
    others: Tensor
    centre: Tensor
    directions: Tensor

    def __init__(
        self,
        width: int,
        projected: Sequence[int],
        components: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        others = sorted(set(range(width)) - set(projected))
        self.register_buffer("index", torch.tensor(projected), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.long), persistent=False)
        directions = torch.randn(len(projected), components, generator=generator)
        self.register_buffer("centre", torch.zeros(len(projected)))
        # Until `measure` finds better ones; they keep distances as well as any.
        self.register_buffer("directions", directions / len(projected) ** 0.5)
        self.all = not others
        self.width = components + len(others)

    def forward(
        self, inputs: Float[Tensor, "rows inputs"]
    ) -> Float[Tensor, "rows components_and_others"]:
        """Return the rows along each direction, and beside it what is not projected."""
        if self.all:
            return (inputs - self.centre) @ self.directions
        components = (inputs[:, self.index] - self.centre) @ self.directions
        return torch.cat([components, inputs[:, self.others]], -1)

    @torch.no_grad()
    def measure(self, inputs: Float[Tensor, "rows inputs"]) -> None:
        """Take the directions from training rows, at most 4,096 of them, in float64.

        Where the rows have fewer directions than there are components, the rest stay 0. The sign
        of a direction, which no data decide, makes its largest entry positive.
        """
        rows = inputs[:MOST_ROWS, self.index].double()
        centre = rows.mean(0)
        rows -= centre
        found = principal_directions(rows, self.directions.shape[1])
        self.centre.copy_(centre)
        self.directions.zero_()
        if found.shape[1]:
            rms = (rows @ found).square().mean().sqrt()
            self.directions[:, : found.shape[1]] = found / rms


def principal_directions(
    rows: Float[Tensor, "rows width"], most: int
) -> Float[Tensor, "width directions"]:
    """Unit vectors of largest variance, from the smaller of the two products of centred rows."""
    few = len(rows) < rows.shape[1]
    variances, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    variances, vectors = variances.flip(0)[:most], vectors.flip(1)[:, :most]
    vectors = vectors[:, variances > LEAST_VARIANCE * variances[0].clamp(min=1e-300)]
    if few:
        vectors = nn.functional.normalize(rows.T @ vectors, dim=0)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()
