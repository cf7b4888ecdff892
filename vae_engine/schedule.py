"""What changes with the step, as functions of the step: a resumed run needs to remember nothing."""

import math

from vae_engine.config import TrainingPlan

IWAE_STAGES = 8  # of 3^i epochs at 10^(-i / 7) of the first rate: Burda et al.'s protocol


def learning_rate(plan: TrainingPlan, step: int, total_steps: int | None) -> float:
    """Return the rate of the update after `step` updates.

    constant  the plan's rate
    cosine    from the plan's rate to 0 along half a cosine
    iwae      8 stages, each three times as long as the one before, each at 10^(-1/7) of its rate
    """
    if plan.schedule == "constant":
        return plan.learning_rate
    assert total_steps is not None
    progress = min(step / total_steps, 1.0)
    if plan.schedule == "cosine":
        return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    ends = [(3 ** (i + 1) - 1) / (3**IWAE_STAGES - 1) for i in range(IWAE_STAGES)]
    stage = next((i for i, end in enumerate(ends) if progress < end), IWAE_STAGES - 1)
    return plan.learning_rate * 10 ** (-stage / (IWAE_STAGES - 1))


def beta(plan: TrainingPlan, step: int) -> float:
    """Return the weight of the KL in the update after `step` updates: a line up to plan.beta."""
    if plan.warmup_steps == 0:
        return plan.beta
    return plan.beta * min((step + 1) / plan.warmup_steps, 1.0)


def free_nats(plan: TrainingPlan, step: int) -> float:
    """Return what of each latent's KL is free in the update after `step` updates, in nats."""
    return plan.free_nats if plan.free_steps is None or step < plan.free_steps else 0.0


def warmed_up(plan: TrainingPlan, step: int) -> bool:
    """Whether that weight is the one that all later updates have."""
    return step + 1 >= plan.warmup_steps


def newest_share(plan: TrainingPlan, step: int) -> float:
    """Return the share of the weights after update `step` + 1 in their moving average.

    1 - average_decay, but more at first, so that the average forgets where it began.
    """
    assert plan.average_decay is not None
    return 1 - min(plan.average_decay, (1 + step) / (10 + step))
