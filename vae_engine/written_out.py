"""Which gradient a training takes of those that are written out."""

import logging
import sys
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.config import TrainingPlan
from vae_engine.explicit import ExplicitGradient, applies, black_and_white
from vae_engine.model import VAE
from vae_engine.workers import share_count

LEAST_TERMS = (
    2e6  # of a step's largest product: what is less is not worth the half second to load
)
MOST_THREADS = 8  # of a compiled step: shares of columns become narrow
COMPILED = ("tanh", "relu", "silu", "softplus")  # activations

log = logging.getLogger(__name__)


@runtime_checkable
class WrittenOut(Protocol):
    """A gradient and its update, without autograd."""

    def differentiate(
        self,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        step: int,
        generator: torch.Generator,
    ) -> tuple[float, float]:
        """Return the mean of the weighted bound and the norm of its gradient, which is kept."""

    def update(self, rate: float, factor: float) -> None:
        """Move the weights against the gradient times `factor`, or begin to."""

    def settle(self) -> None:
        """Wait until the weights have moved."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep other libraries' threads off the cores inside, if this has its own."""


def written_out(
    model: VAE, plan: TrainingPlan, optimizer: torch.optim.Optimizer, workers: int | None
) -> WrittenOut | None:
    """Return the quickest gradient that does for this model and plan; None if none does.

    For black and white pixels that is compiled code, where Numba is installed and a step is large.
    """
    if not applies(model, plan):
        return None
    if compiles(model, plan):
        try:
            from vae_engine.compiled import CompiledGradient  # Numba is an extra
        except ImportError:
            log.debug("Numba or SciPy is not installed: gradients go through PyTorch")
        except RuntimeError as error:  # no folder for what Numba compiles
            log.warning(
                "gradients go through PyTorch: %s; NUMBA_CACHE_DIR names a folder that may be written",
                error,
            )
        else:
            threads, shared = workers or torch.get_num_threads(), workers is not None
            most = share_count(plan.batch_rows * plan.samples) if shared else MOST_THREADS
            return CompiledGradient(model, plan, optimizer, min(threads, most), shared=shared)
    return ExplicitGradient(model, plan, optimizer, workers)


def compiles(model: VAE, plan: TrainingPlan) -> bool:
    """Whether compiled code does for this model and plan, and pays."""
    largest = max(p.numel() for p in model.parameters())
    return (
        sys.platform != "win32"  # where no call gives a core away
        and black_and_white(model)
        and model.head.weight.dtype == torch.float32
        and model.config.activation in COMPILED
        and plan.optimizer in ("adam", "adamw")
        and plan.precision == "float32"
        and plan.batch_rows * plan.samples * largest >= LEAST_TERMS
    )
