"""What is said when a run does not end well: one event for alerts, one line for the log.

Prefect calls these by keyword, from the run's process or from the worker, so that the names of
their parameters are part of the contract.
"""

import logging
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from flows.events import RUN, announce

logger = logging.getLogger(__name__)


def tell_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A stage raised: the data, the spec, the gate or the registry said no."""
    _tell("failed", flow, flow_run, state)


def tell_crashed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The process died or was terminated."""
    _tell("crashed", flow, flow_run, state)


def tell_cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A person or an automation cancelled the run."""
    _tell("cancelled", flow, flow_run, state)


def _tell(how: str, flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    dataset = _dataset(flow_run)
    advice = "run it again: it resumes where it stopped"
    why = (state.message or "").removesuffix(".")
    logger.warning("%s of %s %s: %s; %s", flow.name, dataset, how, why, advice)
    announce(
        f"{RUN}.{how}",
        dataset,
        {
            "flow_run_id": str(flow_run.id),
            "flow_run_name": flow_run.name,
            "message": state.message or "",
            "advice": advice,
        },
    )


def _dataset(flow_run: FlowRun) -> str:
    spec = flow_run.parameters.get("spec")
    named = spec.get("dataset", {}) if isinstance(spec, dict) else getattr(spec, "dataset", {})
    return str(named.get("name") if isinstance(named, dict) else named.name)
