"""Monitor and backfill as Prefect runs them: each a flow of one task, beside the pipeline."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows import noticeboard
from flows.backfill import backfill
from flows.deadline import given_up_after
from flows.hooks import tell_cancelled, tell_crashed, tell_failed
from flows.monitor import monitor
from flows.redaction import redacted
from flows.settings import Home, prepare_environment, resolve_home
from flows.spec import Spec

ALERTS: dict[str, Any] = {
    "on_failure": [tell_failed],
    "on_crashed": [tell_crashed],
    "on_cancellation": [tell_cancelled],
}

compare = task(cache_policy=NO_CACHE, name="monitor")(monitor)
encode = task(cache_policy=NO_CACHE, name="backfill")(backfill)


@flow(name="latents-monitor", flow_run_name="{spec.dataset.name}", **ALERTS)
def monitor_data(
    spec: Spec, home: Path | None = None, source: str | None = None
) -> dict[str, Any]:
    """Hold new data against what the champion was trained on; announce what has drifted.

    Args:
        spec: of the data set.
        home: the folder where everything is kept; else the worker's $LATENTS_HOME.
        source: the new data; else the spec's source as it is now.
    """
    place = _prepared(home)
    with given_up_after(spec.schedule.timeout_s):
        found = compare(spec, place, source)
    noticeboard.pin_drift(found)
    return found


@flow(name="latents-backfill", flow_run_name="{spec.dataset.name}-v{version}", **ALERTS)
def backfill_version(
    spec: Spec, version: Annotated[int, Field(ge=1)], home: Path | None = None
) -> dict[str, Any]:
    """Publish today's rows under a version that is not champion, for those who pinned it.

    Args:
        spec: of the data set.
        version: of its model.
        home: the folder where everything is kept; else the worker's $LATENTS_HOME.
    """
    place = _prepared(home)
    with noticeboard.progress_board(spec.dataset.name), given_up_after(spec.schedule.timeout_s):
        found = encode(spec, place, version)
    noticeboard.pin_summary(found, redacted(place.tracking_uri))
    return found


def _prepared(home: Path | None) -> Home:
    place = resolve_home(home)
    prepare_environment(place)
    return place
