"""Start the pipeline, unless everything it would make is there already."""

from collections.abc import Callable
from typing import Any

from flows import summary
from flows.collector import loading
from flows.runs import StageName
from flows.settings import Home, check_registry
from flows.spec import Spec


def _libraries() -> None:
    import flows.pipeline  # noqa: F401


def run_pipeline(
    spec: Spec, home: Home, *, until: StageName, load: Callable[[], None] = _libraries
) -> dict[str, Any]:
    """Run the pipeline up to the stage `until`; say so, in seconds, if all of it was done.

    The check costs a hash of the source and a look at the registry; without it, a run that
    has nothing to do would still start Prefect's server. That starts while `load` imports what
    the stages need.

    Raises:
        flows.server.ServerError: the Prefect server that is named does not answer.
        flows.settings.HomeError: see `check_registry`.
    """
    check_registry(home)
    done = summary.finished(spec, home) if until == "report" else None
    if done is not None:
        return done
    from flows.server import beginning, check_server, outlived

    check_server()
    with loading(), beginning():
        load()
    from flows.pipeline import pipeline

    return outlived(lambda: pipeline(spec, home.root, until=until))
