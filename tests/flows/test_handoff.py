"""What a spec leaves open."""

from typing import Any

import pytest

from flows.handoff import training_plan
from flows.spec import Spec


@pytest.mark.parametrize(
    ("said", "rate", "schedule"),
    [
        ({}, 3e-3, "cosine"),
        ({"learning_rate": 1e-4}, 1e-4, "constant"),
        ({"schedule": "constant"}, 1e-3, "constant"),
        ({"optimizer": "adagrad"}, 1e-3, "constant"),
        ({"epochs": 3, "objective": "iwae"}, 3e-3, "cosine"),
    ],
)
def test_rate_and_schedule_are_chosen_together_or_not_at_all(
    said: dict[str, Any], rate: float, schedule: str
) -> None:
    """A spec that names one of them, or an optimizer, has the engine's defaults for the others."""
    dataset = {"name": "numbers", "source": "numbers.csv"}
    spec = Spec.model_validate({"dataset": dataset, "training": said})
    plan = training_plan(spec, rows=10_000)

    assert (plan.learning_rate, plan.schedule) == (rate, schedule)
