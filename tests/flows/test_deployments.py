"""Deployed, the pipeline runs by schedule, by hand and by event, on a real server and worker."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from data.features import open_features
from flows import tracking
from flows.deploy import deploy as deploy_spec
from flows.orphans import mark_crashed
from flows.settings import Home
from flows.spec import SpecError, load_spec
from tests.flows.conftest import digits_table, latents
from tests.flows.stack import Stack, wait_for
from tests.flows.test_monitor import other_digits

SMALL = (
    "training.epochs=4",
    "model.hidden=[64]",
    "evaluation.estimators=[]",
    "evaluation.importance_samples=20",
    "evaluation.rows=100",
)
ROOT = Path(__file__).parents[2]
FLOWS = {"monitor": "latents-monitor", "backfill": "latents-backfill"}


def deploy(stack: Stack, source: Path, name: str, *options: str) -> dict[str, Any]:
    """Run `latents deploy`, and give the deployment as the server has it."""
    settings = [text for one in (*SMALL, f"dataset.name={name}") for text in ("--set", one)]
    done = latents("deploy", source, *settings, *options, "--json", home=stack.home)
    assert done.returncode == 0, done.stderr
    flow, _, deployed = json.loads(done.stdout)["deployment"].partition("/")
    assert deployed == name
    return stack.deployment(name, flow)


def prefect(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Prefect's own command line."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": stack.prefect, "DO_NOT_TRACK": "1"},
    )


@pytest.fixture(scope="module")
def scheduled(stack: Stack, digits: Path) -> dict[str, Any]:
    """The first run of a deployment that runs each minute, ended; no more will come."""
    made = deploy(stack, digits, "scheduled", "--cron", "*/1 * * * *", "--timezone", "UTC")
    coming = wait_for(
        lambda: stack.runs(made["id"], "SCHEDULED"), "a scheduled run", timeout_s=60
    )
    assert coming[0]["auto_scheduled"]
    run = stack.ended(coming[0]["id"])
    stack.ask(f"deployments/{made['id']}/pause_deployment", {})
    assert run["state_type"] == "COMPLETED", run["state"]
    return run


def test_a_schedule_fires_and_its_run_publishes(
    stack: Stack, scheduled: dict[str, Any]
) -> None:
    features = open_features("scheduled", home=stack.home, verify=True)
    versions = tracking.versions(Home(stack.home), "scheduled")
    assert features.rows == 1797
    assert [version.version for version in versions] == [1]
    assert features.manifest["model"]["digest"] == versions[0].digest


def test_prefect_shows_the_run(stack: Stack, scheduled: dict[str, Any]) -> None:
    shown = stack.artifacts(scheduled["id"])
    features = open_features("scheduled", home=stack.home)

    assert shown["scheduled-train"]["data"] == 100
    assert shown["scheduled-encode"]["data"] == 100
    assert str(features.path) in shown["scheduled-publication"]["data"]
    assert "report.html" in shown["scheduled-report"]["data"]
    assert f"{stack.mlflow}/#/models/scheduled/versions/1" in shown["scheduled-mlflow"]["data"]
    assert "nats (" in shown["scheduled-summary"]["data"]
    table = json.loads(shown["scheduled-metrics"]["data"])
    assert {"metric", "value", "stderr"} == table[0].keys()


def test_assets_have_their_lineage(stack: Stack, scheduled: dict[str, Any]) -> None:
    def materialized() -> dict[str, dict[str, Any]]:
        events = stack.events("prefect.asset.materialization")
        return {event["resource"]["prefect.resource.id"]: event for event in events}

    name = "latents://scheduled/features"
    wait_for(lambda: name in materialized(), "the event of the features")
    made = materialized()
    features = made[name]
    sources = [
        related["prefect.resource.id"]
        for related in features["related"]
        if related.get("prefect.resource.role") == "asset"
    ]
    assert sorted(sources) == ["latents://scheduled/model", "latents://scheduled/snapshot"]
    assert features["payload"]["model_version"] == 1
    assert made["latents://scheduled/model"]["payload"]["version"] == 1


def test_the_form_has_the_specs_schema_and_refuses_what_breaks_it(
    stack: Stack, scheduled: dict[str, Any]
) -> None:
    deployment = stack.deployment("scheduled")
    spec = deployment["parameters"]["spec"]
    wrong = {**spec, "training": {**spec["training"], "epochs": 0}}

    with pytest.raises(AssertionError, match=r"spec\.training\.epochs"):
        stack.ask(
            f"deployments/{deployment['id']}/create_flow_run", {"parameters": {"spec": wrong}}
        )

    schema = deployment["parameter_openapi_schema"]
    assert deployment["enforce_parameter_schema"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert {"DatasetSection", "TrainingSection"} <= schema["definitions"].keys()


def test_by_hand_it_finds_everything_done(stack: Stack, scheduled: dict[str, Any]) -> None:
    before = open_features("scheduled", home=stack.home).path

    done = prefect(stack, "deployment", "run", "latent-features/scheduled", "--watch")

    assert done.returncode == 0, done.stdout + done.stderr
    assert open_features("scheduled", home=stack.home).path == before
    assert len(tracking.versions(Home(stack.home), "scheduled")) == 1


def test_new_data_start_a_run(stack: Stack, tmp_path: Path) -> None:
    source = tmp_path / "growing.parquet"
    pq.write_table(digits_table().slice(0, 900), source)
    made = deploy(stack, source, "growing", "--on", "arrival")
    seen = stack.home / "watched.json"
    wait_for(
        lambda: seen.exists() and "growing" in json.loads(seen.read_text()), "the first look"
    )

    pq.write_table(digits_table(), source)

    run = wait_for(lambda: stack.runs(made["id"]), "a run on arrival")[0]
    assert stack.ended(run["id"])["state_type"] == "COMPLETED"
    assert open_features("growing", home=stack.home).rows == 1797


def test_drift_starts_a_retraining_and_the_old_version_is_backfilled(
    stack: Stack, tmp_path: Path
) -> None:
    """Three deployments of one data set: the pipeline, its monitor, a backfill."""
    source = tmp_path / "drifting.parquet"
    pq.write_table(digits_table().slice(0, 900), source)
    made = deploy(stack, source, "drifting", "--on", "drift")
    assert stack.ended(stack.start(made["id"]))["state_type"] == "COMPLETED"
    watching = deploy(stack, source, "drifting", "--stage", "monitor", "--on", "arrival")
    old = deploy(stack, source, "drifting", "--stage", "backfill", "--model-version", "1")
    other_digits(source, darker=True)

    seen = stack.start(watching["id"])
    assert stack.ended(seen)["state_type"] == "COMPLETED"

    def told() -> bool:  # by this run, or by the one that the arrival started before it
        pinned = [stack.artifacts(run["id"]) for run in stack.runs(watching["id"])]
        return any("drift: " in p["drifting-drift"]["data"] for p in pinned if p)

    wait_for(told, "a verdict of drift")
    again = stack.start(old["id"])  # beside the retraining
    retraining = wait_for(lambda: stack.runs(made["id"])[1:], "a run on drift")[0]
    assert stack.ended(retraining["id"])["state_type"] == "COMPLETED"
    versions = tracking.versions(Home(stack.home), "drifting")
    assert [version.version for version in versions] == [1, 2]
    assert stack.ended(again)["state_type"] == "COMPLETED"
    assert open_features("drifting", home=stack.home, model_version=1).rows == 1797


def test_a_killed_run_is_crashed_and_the_next_one_goes_on(stack: Stack, digits: Path) -> None:
    """The kernel's way: no handler runs, and the worker tells of it."""
    made = deploy(stack, digits, "killed", "--set", "training.epochs=24")
    run = stack.start(made["id"])
    wait_for(lambda: list(stack.home.glob("runs/killed-*/checkpoints/step-*")), "a checkpoint")

    os.kill(process_of(run), signal.SIGKILL)

    assert stack.ended(run)["state_type"] == "CRASHED"
    assert stack.ended(stack.start(made["id"]))["state_type"] == "COMPLETED"
    (trained,) = stack.home.glob("runs/killed-*/trained.json")
    assert json.loads(trained.read_text())["resumed"] == 1


def process_of(run: str) -> int:
    """The process of a flow run: its id is in the environment that the worker gave it."""
    mark = f"PREFECT__FLOW_RUN_ID={run}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environment.read_bytes().split(b"\0"):
                return int(environment.parent.name)
    raise AssertionError(f"no process runs {run}")


@pytest.fixture(scope="module")
def idle(stack: Stack, digits: Path) -> dict[str, Any]:
    """A deployment for a GPU, in a pool that no worker looks into."""
    gpu = ("--set", "training.device=cuda")
    return deploy(stack, digits, "idle", "--pool", "without-worker", *gpu)


def test_a_training_on_a_gpu_waits_for_its_turn(stack: Stack, idle: dict[str, Any]) -> None:
    queue = stack.ask(f"work_queues/{idle['work_queue_id']}")

    assert (queue["name"], queue["concurrency_limit"]) == ("gpu", 1)


def test_runs_whose_worker_is_gone_are_marked_and_others_are_left(
    stack: Stack, idle: dict[str, Any]
) -> None:
    under_way = {"state": {"type": "RUNNING"}, "force": True}
    left = stack.start(idle["id"])
    in_a_terminal = str(stack.ask("flow_runs/", {"flow_id": idle["flow_id"]})["id"])
    for run in (left, in_a_terminal):
        stack.ask(f"flow_runs/{run}/set_state", under_way)

    assert mark_crashed(stack.prefect, "without-worker") == 1

    states = [stack.ask(f"flow_runs/{run}")["state_type"] for run in (left, in_a_terminal)]
    assert states == ["CRASHED", "RUNNING"]
    assert mark_crashed(stack.prefect, "without-worker") == 0
    stack.ask(
        f"flow_runs/{in_a_terminal}/set_state", {"state": {"type": "CANCELLED"}, "force": True}
    )


def test_a_run_that_takes_too_long_is_stopped_and_says_so(stack: Stack, digits: Path) -> None:
    long = ("--set", "training.epochs=3000", "--set", "training.patience=1000")
    made = deploy(stack, digits, "slow", *long, "--set", "schedule.timeout_s=6")

    ended = stack.ended(stack.start(made["id"]))

    assert (ended["state_type"], ended["state_name"]) == ("FAILED", "TimedOut")
    assert "what it made is kept" in ended["state"]["message"]


def test_a_cancelled_training_is_saved_and_goes_on(stack: Stack, digits: Path) -> None:
    long = ("--set", "training.epochs=3000", "--set", "training.patience=1000")
    made = deploy(stack, digits, "cancelled", *long)
    run = stack.start(made["id"])
    wait_for(
        lambda: list(stack.home.glob("runs/cancelled-*/checkpoints/step-*")), "a checkpoint"
    )

    stack.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    assert stack.ended(run)["state_type"] == "CANCELLED"
    saved = max(stack.home.glob("runs/cancelled-*/checkpoints/step-*"))
    last_report = (saved.parents[1] / "metrics.jsonl").read_text().splitlines()[-1]
    assert int(saved.name.removeprefix("step-")) >= json.loads(last_report)["step"]
    told = wait_for(lambda: stack.events("latents.run.cancelled"), "the event for alerts")
    assert told[0]["resource"]["prefect.resource.id"] == "latents.dataset.cancelled"


def test_the_projects_own_file_deploys_the_pipeline_and_each_stage(stack: Stack) -> None:
    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]

    done = prefect(stack, "deploy", "--all")

    assert done.returncode == 0, done.stdout + done.stderr
    for wanted in listed:
        made = stack.deployment(wanted["name"], FLOWS.get(wanted["name"], "latent-features"))
        expected = {k: v for k, v in wanted["parameters"].items() if k != "spec"}
        assert {k: v for k, v in made["parameters"].items() if k != "spec"} == expected
        assert made["work_pool_name"] == "latents"
    assert {one["name"] for one in listed} >= {
        "pipeline", "ingest", "train", "evaluate", "register", "encode", "monitor", "backfill",
    }  # fmt: skip


def test_without_a_server_it_says_how_to_start_one(digits: Path, tmp_path: Path) -> None:
    done = latents("deploy", digits, home=tmp_path)

    assert done.returncode == 2
    assert "start one with: latents up" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cron", "every day"), "is not understood"),
        (("--cron", "0 3 * * *", "--timezone", "Europe/Atlantis"), "is not understood"),
        (("--on", "full-moon"), "schedule.on"),
    ],
)
def test_a_wrong_schedule_is_explained(
    stack: Stack, digits: Path, options: tuple[str, ...], says: str
) -> None:
    done = latents("deploy", digits, *options, home=stack.home)

    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("stage", "version", "on", "says"),
    [
        ("evalute", None, [], "did you mean 'evaluate'"),
        ("backfill", None, [], "--model-version"),
        ("train", 1, [], "--model-version"),
        ("monitor", None, ["drift"], "would start itself"),
    ],
)
def test_a_stage_that_cannot_be_deployed_is_explained(
    monkeypatch: pytest.MonkeyPatch, digits: Path, stage: str, version: int | None,
    on: list[str], says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # it is never asked
    spec = load_spec(str(digits), [f"schedule.on={json.dumps(on)}"])

    with pytest.raises(SpecError, match=re.escape(says)):
        deploy_spec(spec, stage=stage, version=version)
