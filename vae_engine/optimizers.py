"""The optimizers a plan can name, fused where PyTorch has one kernel for all parameters."""

from collections.abc import Iterator

import torch
from torch import nn

from vae_engine.config import TrainingPlan


def build_optimizer(
    parameters: Iterator[nn.Parameter], plan: TrainingPlan
) -> torch.optim.Optimizer:
    """Build the optimizer that `plan` names; its rate is set at every step."""
    if plan.optimizer == "adagrad":  # K&W, section 5
        on_cpu = torch.device(plan.device).type == "cpu"
        return torch.optim.Adagrad(parameters, lr=plan.learning_rate, fused=on_cpu or None)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(
        parameters,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.epsilon,
        weight_decay=plan.weight_decay,
        fused=True,
    )
