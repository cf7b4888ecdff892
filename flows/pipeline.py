"""The pipeline as Prefect runs it: ingest, train, evaluate, register, encode, report.

A task here is a thin wrapper: what a stage means is in the module of its name, as a plain
function that may be called twice. Paths pass between tasks, never tables or tensors. Nothing
is retried: repeating a diverged training repeats the divergence, and the stages that touch a
network resume when the pipeline is run again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import summary
from flows.encode import encode_dataset
from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.register import register_model
from flows.report import write_report
from flows.runs import Stage
from flows.settings import Home
from flows.spec import Spec
from flows.train import train_model

ingest = task(cache_policy=NO_CACHE, name="ingest")(ingest_dataset)
train = task(cache_policy=NO_CACHE, name="train")(train_model)
evaluate = task(cache_policy=NO_CACHE, name="evaluate")(evaluate_model)
register = task(cache_policy=NO_CACHE, name="register")(register_model)
encode = task(cache_policy=NO_CACHE, name="encode")(encode_dataset)
report = task(cache_policy=NO_CACHE, name="report")(write_report)


def stages(spec: Spec, home: Home) -> Iterator[Stage]:
    """Run the stages in order, each when the next is asked for."""
    yield (snapshot := ingest(spec, home))
    yield (run := train(spec, home, snapshot.value["path"]))
    yield (evaluation := evaluate(spec, run.value["path"]))
    yield (registration := register(spec, home, run.value["path"], evaluation.value))
    yield encode(spec, home, snapshot.value["path"], registration.value)
    yield report(spec, home, run.value["path"])


@flow(name="latent-features", flow_run_name="{spec.dataset.name}")
def pipeline(spec: Spec, home: Path, until: str = "report") -> dict[str, Any]:
    """Turn the data set of `spec` into published latent features; return the summary.

    Args:
        spec: what to do.
        home: the folder where everything is kept.
        until: the last stage to run.
    """
    place = Home(home)
    done: dict[str, Stage] = {}
    for stage in stages(spec, place):
        done[stage.name] = stage
        if stage.name == until:
            break
    return summary.of(spec, done)
