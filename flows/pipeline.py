"""The pipeline as Prefect runs it: ingest, train, evaluate, register, encode, report.

A task here is a thin wrapper: what a stage means is in the module of its name, as a plain
function that may be called twice. Paths pass between tasks, never tables or tensors. Only the
stages that speak to the registry are retried, and only when it does not answer: repeating a
diverged training repeats the divergence.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from prefect import Task, flow, task
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import noticeboard, summary, tracking
from flows.deadline import given_up_after
from flows.encode import encode_dataset
from flows.evaluate import evaluate_model
from flows.hooks import tell_cancelled, tell_crashed, tell_failed
from flows.ingest import ingest_dataset
from flows.noticeboard import asset_key, describe_asset
from flows.redaction import redacted
from flows.register import register_model
from flows.report import write_report
from flows.runs import Stage, StageName
from flows.settings import Home, check_registry, prepare_environment, resolve_home
from flows.spec import Spec
from flows.train import train_model

P = ParamSpec("P")

RETRY_AFTER_S = [2, 8]  # of a registry that did not answer; then it is for the next run
REGISTRY_TIMEOUT_S = 3600  # for two stages whose other work is minutes


def _does_not_answer(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), tracking.TrackingError)


PATIENT: dict[str, Any] = {
    "retries": len(RETRY_AFTER_S),
    "retry_delay_seconds": RETRY_AFTER_S,
    "retry_condition_fn": _does_not_answer,
    "timeout_seconds": REGISTRY_TIMEOUT_S,
}


def _making(
    asset: str,
    work: Callable[P, Stage],
    shown: Sequence[str],
    *,
    of: Sequence[str] = (),
    **options: Any,
) -> Callable[P, Stage]:
    """A task that makes an asset out of others, and says of it what the stage has `shown`."""

    @wraps(work)
    def described(*args: P.args, **kwargs: P.kwargs) -> Stage:
        stage = work(*args, **kwargs)
        return describe_asset(stage, **{name: stage.value[name] for name in shown})

    return materialize(asset, asset_deps=list(of), cache_policy=NO_CACHE, **options)(described)


train = task(cache_policy=NO_CACHE, name="train")(train_model)
evaluate = task(cache_policy=NO_CACHE, name="evaluate")(evaluate_model)
report = task(cache_policy=NO_CACHE, name="report", **PATIENT)(write_report)


def stages(spec: Spec, home: Home) -> Iterator[Stage]:
    """Run the stages in order, each when the next is asked for."""
    rows, model, features = (
        asset_key(spec.dataset.name, kind) for kind in ("snapshot", "model", "features")
    )
    ingest = _making(rows, ingest_dataset, ["fingerprint", "rows"], name="ingest")
    register = _making(
        model, register_model, ["version", "digest"], of=[rows], name="register", **PATIENT
    )
    encode = _making(
        features,
        encode_dataset,
        ["id", "rows", "model_version"],
        of=[rows, model],
        name="encode",
        **PATIENT,
    )

    yield (snapshot := ingest(spec, home))
    yield (run := train(spec, home, snapshot.value["path"]))
    yield (evaluation := evaluate(spec, run.value["path"]))
    yield (registration := register(spec, home, run.value["path"], evaluation.value))
    yield encode(spec, home, snapshot.value["path"], registration.value)
    yield report(spec, home, run.value["path"])


@flow(
    name="latent-features",
    flow_run_name="{spec.dataset.name}",
    on_failure=[tell_failed],
    on_crashed=[tell_crashed],
    on_cancellation=[tell_cancelled],
)
def pipeline(
    spec: Spec, home: Path | None = None, until: StageName = "report"
) -> dict[str, Any]:
    """Turn the data set of `spec` into published latent features; return the summary.

    Args:
        spec: what to do.
        home: the folder where everything is kept; else the worker's $LATENTS_HOME.
        until: the last stage to run.
    """
    place = resolve_home(home)
    prepare_environment(place)
    check_registry(place)
    done: dict[str, Stage] = {}
    with noticeboard.progress_board(spec.dataset.name), given_up_after(spec.schedule.timeout_s):
        for stage in stages(spec, place):
            done[stage.name] = stage
            if stage.name == until:
                break
    found = summary.of(spec, done)
    noticeboard.pin_summary(found, redacted(place.tracking_uri))
    return found
