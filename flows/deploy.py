"""`latents deploy`: a Prefect deployment of the pipeline for one spec, on a process work pool.

The deployment is named after the data set and runs one at a time. Its parameters are the spec,
which the server checks against its schema and shows as a form. The home is the worker's.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron

from flows.events import TRIGGERS, resource_id
from flows.settings import LOGGERS, NO_PICKLES, POOL, QUIET
from flows.spec import Spec, SpecError

ENTRYPOINT = "flows.pipeline.pipeline"
GPU_QUEUE = "gpu"  # one run at a time, unless `prefect work-queue` says more
ARRIVAL_TAG = "latents-on-arrival"  # whose source `latents watch` looks at


class ServerError(RuntimeError):
    """There is no Prefect server to deploy to, or it does not answer."""


def deploy(
    spec: Spec,
    *,
    secrets: Mapping[str, str] | None = None,
    pool: str = POOL,
) -> dict[str, Any]:
    """Make the deployment of a spec, or bring it up to date; say how to run it.

    Args:
        spec: what runs; its section `schedule` says when, and on which events.
        secrets: environment variables of the run, from Prefect's secret blocks: by variable,
            the name of the block. The worker resolves them when the run starts.
        pool: the work pool; made for processes if there is none of that name.

    Raises:
        ServerError: there is no server.
        SpecError: the schedule cannot be understood.
    """
    address = server_address()
    on = spec.schedule.on
    gpu = spec.training.device.startswith("cuda")
    deployment = RunnerDeployment.from_entrypoint(
        ENTRYPOINT,
        name=spec.dataset.name,
        schedule=_schedule(spec),
        triggers=[_trigger(name, spec.dataset.name) for name in on],
        parameters={"spec": spec.model_dump(mode="json")},
        description=f"Latent features of {spec.dataset.name}.",
        tags=["latents", spec.dataset.name, *([ARRIVAL_TAG] if "arrival" in on else [])],
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
        work_pool_name=pool,
        work_queue_name=GPU_QUEUE if gpu else None,
        job_variables={"env": _environment(secrets or {})},
    )
    deployment._path = "."  # the code is installed where the worker is, not fetched
    try:
        _ensure_pool(pool, gpu=gpu)
        identity = deployment.apply()
    except (httpx.HTTPError, OSError) as error:
        raise ServerError(f"Prefect at {address} does not answer: {error}") from error
    name = f"{deployment.flow_name}/{deployment.name}"
    return {
        "deployment": name,
        "id": str(identity),
        "url": f"{address.removesuffix('/api')}/deployments/deployment/{identity}",
        "cron": spec.schedule.cron,
        "timezone": spec.schedule.timezone if spec.schedule.cron else None,
        "on": list(on),
        "run": f"PREFECT_API_URL={address} prefect deployment run {name}",
    }


def server_address() -> str:
    """The Prefect server that lasts, not one that a run starts for itself.

    Raises:
        ServerError: none is named.
    """
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise ServerError(
            "there is no Prefect server; start one with: latents up\n"
            "or name yours: export PREFECT_API_URL=http://HOST:PORT/api"
        )
    return address


def _schedule(spec: Spec) -> Any:
    cron, zone = spec.schedule.cron, spec.schedule.timezone
    if cron is None:
        return None
    try:
        ZoneInfo(zone)
        return Cron(cron, timezone=zone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise SpecError(f"schedule {cron!r} in {zone!r} is not understood: {error}") from None


def _trigger(name: str, dataset: str) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(
        name=f"{dataset} on {name}",
        expect={TRIGGERS[name]},
        match={"prefect.resource.id": resource_id(dataset)},
    )


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """What a run's process finds, whatever starts it; secrets only as references."""
    references = {
        variable: f"{{{{ prefect.blocks.secret.{block} }}}}"
        for variable, block in secrets.items()
    }
    return {**QUIET, **NO_PICKLES, "PREFECT_LOGGING_EXTRA_LOGGERS": LOGGERS, **references}


def _ensure_pool(pool: str, *, gpu: bool) -> None:
    """Make the work pool, and its queue for GPUs, where they are not there yet."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        if gpu:
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(
                    name=GPU_QUEUE, concurrency_limit=1, work_pool_name=pool
                )
