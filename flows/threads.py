"""How many threads a training may have for each product."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vae_engine.config import TrainingPlan

SHARED_PRODUCTS = 4e8  # multiplications of a forward pass from which two threads pay


@contextmanager
def pinned_threads(plan: TrainingPlan, model: nn.Module) -> Iterator[None]:
    """Pin the threads of a training: one where a step is too small to share.

    For a batch of 100 digits a second thread brings a quarter more on an idle machine, and
    costs ten times as much where it has to wait for a busy core at each product. The number
    is a function of the plan, as the last bits of the weights depend on it; a gradient that is
    written out has threads of its own, on whose number nothing depends.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    before = torch.get_num_threads()
    if plan.batch_rows * plan.samples * weights < SHARED_PRODUCTS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
