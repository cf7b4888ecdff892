"""One training by several processes: each takes its rows of every batch, and all step alike.

    objective of a batch = sum over ranks of (share of the rank) * objective of its rows

so the sum of the ranks' weighted gradients is the gradient of the whole batch. Noise and
binarization are drawn for the whole batch by every rank, of which each keeps its rows: what a
step sees does not depend on how many processes there are, and the weights are those of a single
process to rounding. All ranks apply the same sum to the same weights, which stay equal.

Who starts the processes is no matter here: they have joined a process group of torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.config import ConfigError, TrainingPlan

WHOLE_BATCH = ("wake_sleep", "mcem")  # what they draw depends on the number of rows at hand


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that evaluates, writes and reports."""
        return self.rank == 0

    def rows_of(
        self, x: Shaped[Tensor, "rows features"], noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Shaped[Tensor, "_ features"], Float[Tensor, "samples _ latents"], float]:
        """Return this rank's rows, their noise, and their share of the batch.

        Where there are fewer rows than ranks, a rank without one gets a row of no weight.
        """
        if self.world == 1:
            return x, noise, 1.0
        mine = slice(self.rank, None, self.world)
        share = len(x[mine]) / len(x)
        if not share:
            mine = slice(0, 1)
        return x[mine], noise[:, mine], share

    def sum_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their sums over the ranks, in one exchange."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the rank that leads."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor, 0)

    def any(self, wish: bool) -> bool:  # noqa: FBT001  # it is what it is about
        """Whether any rank wishes it: the same answer for all; each waits for the others."""
        if self.world == 1:
            return wish
        wishes = torch.tensor(float(wish))  # on the CPU: nobody waits for a GPU to say so
        dist.all_reduce(wishes)
        return wishes.item() > 0

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.any(False)  # noqa: FBT003


ALONE = Ranks()


def divisible(plan: TrainingPlan) -> bool:
    """Whether the objective is a mean over rows, so that a batch may be taken apart."""
    return plan.objective not in WHOLE_BATCH


def check_divisible(plan: TrainingPlan, ranks: Ranks) -> None:
    """Check that a batch may be divided.

    Raises:
        ConfigError: the objective is no mean over rows that could be taken apart.
    """
    if ranks.world == 1:
        return
    if not divisible(plan):
        raise ConfigError(
            f"objective {plan.objective!r} needs the whole batch in one process; "
            f"set processes = 1"
        )
