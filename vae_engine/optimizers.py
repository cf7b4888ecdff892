"""The optimizers a plan can name, fused where PyTorch has one kernel for all parameters."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from vae_engine.config import TrainingPlan


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: TrainingPlan
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


def fused_update(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], plan: TrainingPlan
) -> Callable[[float], None]:
    """Return rate -> the update of these parameters by their gradients, in one call.

    The same as a step of `optimizer`, whose moments it moves, without what `step` does in Python:
    that takes as long as the update of a small model. Gradients stay in the tensors that they are
    in now.
    """
    if plan.optimizer != "adagrad":
        for parameter in parameters:
            if not optimizer.state[parameter]:  # as Adam itself has it before its first step
                optimizer.state[parameter] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
    weights = [parameter.detach() for parameter in parameters]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]

    def moments(name: str) -> list[Tensor]:
        return [optimizer.state[parameter][name] for parameter in parameters]

    def adagrad(rate: float) -> None:
        settings, steps = optimizer.param_groups[0], moments("step")
        torch._foreach_add_(steps, 1)
        torch._fused_adagrad_(
            weights,
            gradients,
            moments("sum"),
            steps,
            lr=rate,
            lr_decay=settings["lr_decay"],
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            maximize=False,
        )

    def adam(rate: float) -> None:
        steps = moments("step")
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if plan.optimizer == "adamw" else torch._fused_adam_
        kernel(
            weights,
            gradients,
            moments("exp_avg"),
            moments("exp_avg_sq"),
            [],
            steps,
            lr=rate,
            beta1=plan.betas[0],
            beta2=plan.betas[1],
            weight_decay=plan.weight_decay,
            eps=plan.epsilon,
            amsgrad=False,
            maximize=False,
        )

    return adagrad if plan.optimizer == "adagrad" else adam
