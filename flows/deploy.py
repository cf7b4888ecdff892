"""`latents deploy`: a Prefect deployment for one spec, on a process work pool.

Of the whole pipeline, named after the data set; of the pipeline up to a stage; of the monitor or
a backfill. It runs one at a time. Its parameters are the spec and what else the stage asks for,
which the server checks against its schema and shows as a form. The home is the worker's.
"""

import difflib
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
from flows.runs import STAGES
from flows.server import ServerError, server_address
from flows.settings import LOGGERS, NO_PICKLES, POOL, QUIET
from flows.spec import Spec, SpecError

PIPELINE = "flows.pipeline.pipeline"
BESIDE = {"monitor": "flows.jobs.monitor_data", "backfill": "flows.jobs.backfill_version"}
WHOLE = "report"  # the last stage of the pipeline
GPU_QUEUE = "gpu"  # one run at a time, unless `prefect work-queue` says more
ARRIVAL_TAG = "latents-on-arrival"  # whose source `latents watch` looks at


def deploy(
    spec: Spec,
    *,
    stage: str = WHOLE,
    version: int | None = None,
    secrets: Mapping[str, str] | None = None,
    pool: str = POOL,
) -> dict[str, Any]:
    """Make the deployment of a spec, or bring it up to date; say how to run it.

    Args:
        spec: what runs; its section `schedule` says when, and on which events.
        stage: the last stage that runs, or `monitor`, or `backfill`.
        version: of the model, for a backfill.
        secrets: environment variables of the run, from Prefect's secret blocks: by variable,
            the name of the block. The worker resolves them when the run starts.
        pool: the work pool; made for processes if there is none of that name.

    Raises:
        ServerError: there is no server.
        SpecError: the schedule or the stage cannot be understood.
    """
    address = server_address()
    entrypoint, asked = _work(stage, version)
    on = spec.schedule.on
    if stage == "monitor" and "drift" in on:
        raise SpecError(
            "a monitor that starts on drift would start itself; deploy it --on arrival, and the "
            "pipeline --on drift"
        )
    gpu = spec.asks_for_gpu
    partial = "until" in asked and stage != WHOLE
    deployment = RunnerDeployment.from_entrypoint(
        entrypoint,
        name=f"{spec.dataset.name}-{stage}" if partial else spec.dataset.name,
        schedule=_schedule(spec),
        triggers=[_trigger(name, spec.dataset.name) for name in on],
        parameters={"spec": spec.model_dump(mode="json"), **asked},
        description=f"Latent features of {spec.dataset.name}: {stage}.",
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


def _work(stage: str, version: int | None) -> tuple[str, dict[str, Any]]:
    """The flow that runs a stage, and the parameters that it has beside the spec."""
    if (version is None) is (stage == "backfill"):
        raise SpecError(
            "a backfill needs the version it encodes by, and nothing else does: "
            "--stage backfill --model-version 1"
        )
    if stage in BESIDE:
        return BESIDE[stage], {} if version is None else {"version": version}
    if stage in STAGES:
        return PIPELINE, {"until": stage}
    known = [*STAGES, *BESIDE]
    near = difflib.get_close_matches(stage, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
    raise SpecError(f"there is no stage {stage!r}; {hint}")


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
