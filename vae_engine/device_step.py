"""A step of training that asks nothing of the host: on a GPU, one captured graph for every batch.

    admit    the batch and its noise go into buffers that stay where they are
    step     objective, gradient and its norm, clipping, fused update, moving average
    read     at a report, the host finds what every step since the last one has left

Whether a number is finite is decided on the device. From the first that is not, no step changes
weights or moments, and the buffers keep the batch that it came from, for the host to find. All
full batches are steps of the graph, the short one at the end of an epoch is the same step without:
which of the two a step is depends on its rows alone, so that a resumed run repeats it.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.ascent import DRAWING, Ascent, Cost
from vae_engine.config import TrainingPlan
from vae_engine.gradients import precision
from vae_engine.model import VAE
from vae_engine.optimizers import guarded_update
from vae_engine.schedule import beta, free_nats

MOST_STEPS = 4096  # whose numbers wait on the device to be read
REHEARSALS = 3  # before a capture: libraries get ready in their first calls

Bound = Callable[[Tensor, Tensor, Cost], Tensor]


def applies(plan: TrainingPlan) -> bool:
    """Whether this is on a GPU, and a step draws noise and nothing else."""
    return (
        torch.device(plan.device).type == "cuda"
        and plan.objective not in DRAWING
        and plan.optimizer != "adagrad"  # which has no fused update on a GPU
    )


class Setting:
    """A number that the host knows and the device uses; it is sent where it changes."""

    def __init__(self, device: str) -> None:
        self.there = torch.zeros((), device=device)
        self.here = 0.0

    def set(self, value: float) -> None:
        """Let the steps that follow use this value."""
        if value != self.here:
            self.there.fill_(value)
            self.here = value


class Left(NamedTuple):
    """What one step has left behind: nats per row, the norm before clipping, its rows."""

    objective_nats: float
    grad_norm: float
    rows: int


class DeviceStep:
    """Steps of one model and plan, on buffers that every step uses again.

    On a CPU, where nothing is captured, they are the same steps.
    """

    def __init__(
        self,
        model: VAE,
        ascent: Ascent,
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Tensor] | None,
        *,
        compiled: bool = False,
    ) -> None:
        plan = ascent.plan
        self.model, self.ascent, self.plan, self.optimizer = model, ascent, plan, optimizer
        self.average = list((average or {}).values())
        self.capturing = torch.device(plan.device).type == "cuda"
        self.parameters = list(model.parameters())
        self.rate, self.beta, self.free_nats, self.share = (
            Setting(plan.device) for _ in range(4)
        )
        self.halted = torch.zeros((), dtype=torch.bool, device=plan.device)
        self.place = torch.zeros(1, dtype=torch.int64, device=plan.device)
        self.left = torch.zeros(MOST_STEPS + REHEARSALS, 2, device=plan.device)
        self.rows: list[int] = []  # of each step that has not been read
        self._compiled: Bound = (
            torch.compile(self._bound, dynamic=False) if compiled else self._bound
        )
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._places: dict[int, tuple[Tensor, Tensor]] = {}  # in them, of so many rows
        self._graph: torch.cuda.CUDAGraph | None = None
        optimizer.register_load_state_dict_post_hook(self._forget)

    @property
    def full(self) -> bool:
        """Whether the numbers of no further step would find a place before they are read."""
        return len(self.rows) == MOST_STEPS

    def take(
        self,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        *,
        rate: float,
        share: float,
        step: int,
    ) -> None:
        """Take the one after `step` steps, or tell the device to; nothing here waits for it.

        `share` is that of the new weights in their moving average.
        """
        x, noise = self._admit(x, noise)
        self.rate.set(rate)
        self.share.set(share)
        self.beta.set(beta(self.plan, step))
        self.free_nats.set(free_nats(self.plan, step))
        if x.shape[0] != self.plan.batch_rows:
            self._step(x, noise, self._bound)
        elif not self.capturing:
            self._step(x, noise, self._compiled)
        else:
            if self._graph is None:
                self._graph = self._captured(x, noise)
            self._graph.replay()
        self.rows.append(x.shape[0])

    def read(self) -> list[Left]:
        """Wait for the steps that were not read yet; return what each has left, in order.

        The first that is not finite was not taken, nor were those after it.
        """
        numbers: list[tuple[float, float]] = self.left[: len(self.rows)].tolist()
        found = [Left(*two, rows) for two, rows in zip(numbers, self.rows, strict=True)]
        self._start_over()
        return found

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """The rows that halted the steps, else those of the last one, and their noise."""
        if rows not in self._places:
            assert self._buffers is not None
            x, noise = self._buffers
            shape = self.plan.samples, rows, self.model.latents
            self._places[rows] = x[:rows], noise[: math.prod(shape)].view(shape)
        return self._places[rows]

    def release(self) -> None:
        """Give the memory back."""
        self._graph = self._buffers = None
        self._places.clear()

    def _admit(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Copy a batch into the buffers, unless they keep one that halted the steps."""
        if self._buffers is None or x.shape[0] > self._buffers[0].shape[0]:
            self.release()
            rows = max(x.shape[0], self.plan.batch_rows)
            cells = self.plan.samples * rows * self.model.latents
            self._buffers = x.new_empty(rows, x.shape[1]), noise.new_empty(cells)
        places = self.batch(x.shape[0])
        for place, given in zip(places, (x, noise), strict=True):
            torch.where(self.halted, place, given, out=place)
        return places

    def _bound(self, x: Tensor, noise: Tensor, cost: Cost) -> Tensor:
        with precision(self.plan):
            return self.ascent.objective(self.model, x, noise, cost, None)

    def _step(self, x: Tensor, noise: Tensor, bound: Bound) -> None:
        plan = self.plan
        cost = Cost(  # a number of the host stays in a graph as it is
            self.beta.there if plan.warmup_steps else plan.beta,
            self.free_nats.there if plan.free_steps else plan.free_nats,
        )
        objective = bound(x, noise, cost)
        found = torch.autograd.grad(-objective, self.parameters, allow_unused=True)
        moved = [(p, g) for p, g in zip(self.parameters, found, strict=True) if g is not None]
        gradients = [gradient for _, gradient in moved]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        left = torch.stack([objective.detach().to(norm.dtype), norm])
        self.left.index_copy_(0, self.place, left[None])
        self.place.add_(1)
        self.halted.logical_or_(~left.isfinite().all())
        limit = plan.clip_norm
        guarded_update(
            self.optimizer,
            [parameter for parameter, _ in moved],
            gradients,
            plan,
            rate=self.rate.there,
            shrink=None if limit is None else (norm / limit).clamp(min=1),
            halted=self.halted,
        )
        if self.average:
            weights = [parameter.detach() for parameter in self.parameters]
            apart = torch._foreach_sub(weights, self.average)
            torch._foreach_mul_(apart, self.share.there * ~self.halted)
            torch._foreach_add_(self.average, apart)

    def _captured(self, x: Tensor, noise: Tensor) -> torch.cuda.CUDAGraph:
        """The step as a graph on these buffers; nothing moves while it is rehearsed."""
        with torch.cuda.device(x.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                halted = self.halted.clone()
                self.halted.fill_(True)  # noqa: FBT003  # a tensor's
                for _ in range(REHEARSALS):
                    self._step(x, noise, self._compiled)
                self.halted.copy_(halted)
                self.place.fill_(len(self.rows))
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self._step(x, noise, self._compiled)
        return graph

    def _start_over(self) -> None:
        self.rows.clear()
        self.place.zero_()
        self.halted.zero_()

    def _forget(self, _: torch.optim.Optimizer) -> None:
        """Other moments came, and with them other weights: the graph is of those before."""
        self._graph = None
        self._start_over()
