"""The optimizers a plan can name, fused where PyTorch has one kernel for all parameters."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float
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


def begin_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Give these parameters moments, where they have none, as Adam does before its first step."""
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the gradients that are there."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def fused_update(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], plan: TrainingPlan
) -> Callable[[float], None]:
    """Return rate -> the update of these parameters by their gradients, in one call.

    The same as a step of `optimizer`, whose moments it moves, without what `step` does in Python:
    that takes as long as the update of a small model.
    """
    if plan.optimizer != "adagrad":
        begin_moments(optimizer, parameters)
    weights = [parameter.detach() for parameter in parameters]
    kernel, settings_of_adam = _adam_kernel(plan), _adam_settings(plan)
    moments: dict[str, list[Tensor]] = {}
    owner: object = None  # of these moments: loading other ones replaces it

    def find_moments() -> None:
        nonlocal owner
        if owner is not optimizer.state:
            owner, states = optimizer.state, [optimizer.state[p] for p in parameters]
            moments.update({name: [state[name] for state in states] for name in states[0]})

    def adagrad(rate: float) -> None:
        find_moments()
        settings = optimizer.param_groups[0]
        torch._foreach_add_(moments["step"], 1)
        torch._fused_adagrad_(
            weights,
            gradients_of(parameters),
            moments["sum"],
            moments["step"],
            lr=rate,
            lr_decay=settings["lr_decay"],
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            maximize=False,
        )

    def adam(rate: float) -> None:
        find_moments()
        torch._foreach_add_(moments["step"], 1)
        kernel(
            weights,
            gradients_of(parameters),
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            moments["step"],
            lr=rate,
            **settings_of_adam,
        )

    return adagrad if plan.optimizer == "adagrad" else adam


def guarded_update(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    plan: TrainingPlan,
    *,
    rate: Float[Tensor, ""],
    shrink: Float[Tensor, ""] | None,
    halted: Bool[Tensor, ""],
) -> None:
    """Take one fused step of Adam or AdamW, all of whose settings are where the weights are.

    The gradient is divided by `shrink`. Where `halted` is true, nothing moves: neither weights nor
    moments nor their number of steps.
    """
    begin_moments(optimizer, parameters)
    steps, first, second = (
        [optimizer.state[parameter][name] for parameter in parameters]
        for name in ("step", "exp_avg", "exp_avg_sq")
    )
    stays = halted.float()
    torch._foreach_add_(steps, 1)
    _adam_kernel(plan)(
        [parameter.detach() for parameter in parameters],
        gradients,
        first,
        second,
        [],
        steps,
        lr=rate,
        grad_scale=None if shrink is None else shrink.float(),
        found_inf=stays,
        **_adam_settings(plan),
    )
    torch._foreach_sub_(steps, [stays] * len(steps))


def _adam_kernel(plan: TrainingPlan) -> Callable[..., None]:
    return torch._fused_adamw_ if plan.optimizer == "adamw" else torch._fused_adam_


def _adam_settings(plan: TrainingPlan) -> dict[str, float]:
    return {
        "beta1": plan.betas[0],
        "beta2": plan.betas[1],
        "weight_decay": plan.weight_decay,
        "eps": plan.epsilon,
        "amsgrad": False,
        "maximize": False,
    }
