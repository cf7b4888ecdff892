"""Runs whose worker died with nobody to report it: they count as running, and hold a place.

Prefect's server cannot tell them from runs that are busy. Who has just started the only worker
of a pool can: none of what runs in it is its own.
"""

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
MESSAGE = "Its worker died; the next run goes on where it stopped."


def mark_crashed(server: str, pool: str) -> int:
    """Mark the runs under way in a work pool as crashed; return how many there were.

    Call it before a worker of the pool starts, and only where it has no other.
    """
    with SyncPrefectClient(server) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY))
            ),
            deployment_filter=DeploymentFilter(),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        )
        for run in found:
            client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
    return len(found)
