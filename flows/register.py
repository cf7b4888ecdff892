"""Stage 4: the model becomes a version in the registry, the gate judges it, a champion encodes."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from time import perf_counter
from typing import Any

from data.contract import Contract
from data.features import feature_names
from data.preprocessing import Preprocessor
from data.publication import canonical_json, locked, replace_file
from data.snapshot import open_snapshot
from data.working_copy import settle, share
from flows import measurements, tracking
from flows.evaluate import log_marginal_of
from flows.gate import GateError, Verdict, judge
from flows.input_example import input_example
from flows.promotion import crown, registry_lock
from flows.runs import RunFolder, Stage, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec
from flows.tracking import CHALLENGER, CHAMPION, Registered
from flows.vault import fetched

REQUIREMENTS = ("torch", "numpy", "pandas", "pyarrow", "safetensors", "jaxtyping", "mlflow")


def register_model(
    spec: Spec, home: Home, run_path: str, evaluation: Mapping[str, Any]
) -> Stage:
    """Register the run's model once, judge it once, and say which version encodes.

    Raises:
        TrackingError: the registry cannot be reached; the run is whole, and running again
            registers it.
        GateError: there is no champion and the model did not pass.
    """
    started = perf_counter()
    folder = RunFolder(Path(run_path))
    with locked(registry_lock(home, spec.model_name)):
        tracking_run = _synced(spec, home, folder, evaluation)
        registered, is_new = _version(spec, home, folder, tracking_run, evaluation)
        tracking.end_run(home, tracking_run)
        verdict = read_record(folder.record("gate")) if _judged(folder) else None
        if verdict is None:
            verdict = _judge(spec, home, folder, registered, evaluation)
        settle(folder.record("gate"))
        registered = _current(home, registered)
    encoder = _encoder(home, folder, registered)
    value = {
        "name": registered.name,
        "version": registered.version,
        "digest": registered.digest,
        "aliases": list(registered.aliases),
        "mlflow_run": tracking_run,
        "gate": verdict,
        "verdict": _sentence(registered, verdict),
        "encoder": encoder,
    }
    elsewhere = {**value, "encoder": {k: v for k, v in encoder.items() if k != "folder"}}
    record = folder.record("registration")
    replace_file(record, canonical_json(elsewhere).encode())
    share(record)
    return Stage("register", value, reused=not is_new, elapsed_s=perf_counter() - started)


def _judged(folder: RunFolder) -> bool:
    return folder.record("gate").exists()


def _synced(spec: Spec, home: Home, folder: RunFolder, evaluation: Mapping[str, Any]) -> str:
    """Bring MLflow's run up to date with the run's folder; return its id."""
    plan = read_record(folder.plan)
    mlflow_run = tracking.ensure_run(
        home, experiment=spec.dataset.name, run_id=folder.run_id, params=plan["params"]
    )
    marker = folder.record("synced")
    synced = read_record(marker) if marker.exists() else {}
    if not synced:
        tracking.log_dataset(
            home,
            mlflow_run,
            name=spec.dataset.name,
            fingerprint=plan["fingerprint"],
            source=plan["source"],
            rows=plan["rows"],
        )
        tracking.log_metrics(home, mlflow_run, read_metrics(folder.metrics))
    if synced.get("measured_ms") != evaluation["time_ms"]:
        last_step = max((row["step"] for row in read_metrics(folder.metrics)), default=0)
        metrics = {"step": last_step, "time_ms": evaluation["time_ms"], **evaluation["metrics"]}
        tracking.log_metrics(home, mlflow_run, [metrics])
        for name, rows in measurements.tables(evaluation).items():
            tracking.log_table(home, mlflow_run, f"evaluation/{name}.json", rows)
        now = {"mlflow_run": mlflow_run, "measured_ms": evaluation["time_ms"]}
        replace_file(marker, canonical_json(now).encode())
    return mlflow_run


def _version(
    spec: Spec,
    home: Home,
    folder: RunFolder,
    mlflow_run: str,
    evaluation: Mapping[str, Any],
) -> tuple[Registered, bool]:
    """The model version of this run's artifact, and whether it was made just now."""
    digest = read_record(folder.record("trained"))["digest"]
    if known := tracking.with_digest(home, spec.model_name, digest):
        return known, False
    plan = read_record(folder.plan)
    snapshot = open_snapshot(folder.snapshot)
    contract = snapshot.contract
    latents = evaluation["latents"]
    servable = tracking.Servable(
        artifact=folder.model,
        signature=tracking.signature_of(
            inputs_of(contract),
            [*feature_names("z_mean", latents), *feature_names("z_stddev", latents)],
        ),
        example=input_example(
            spec.registry.input_example,
            snapshot,
            Preprocessor.from_json(folder.preprocessor.read_text("utf-8")),
        ),
        requirements=[f"{name}=={installed(name).split('+')[0]}" for name in REQUIREMENTS],
    )
    registered = tracking.register(
        home,
        mlflow_run,
        servable,
        name=spec.model_name,
        digest=digest,
        tags={
            "latents.run_id": folder.run_id,
            "latents.dataset": spec.dataset.name,
            "latents.fingerprint": plan["fingerprint"],
            "latents.git_commit": _git_commit(),
            "latents.python": platform.python_version(),
        },
    )
    return registered, True


def inputs_of(contract: Contract) -> list[tuple[str, str, bool]]:
    """The raw columns that the served model asks for, as MLflow types."""
    return [
        (
            name,
            _mlflow_type(str(contract[column.name].stored_type), column.nulls == "allow"),
            column.nulls == "refuse",
        )
        for column in contract.encoded
        for name in column.sources
    ]


def _mlflow_type(arrow: str, nullable: bool) -> str:  # noqa: FBT001
    if arrow.startswith(("list", "fixed_size_list")):
        return "array<float>" if "float" in arrow or "double" in arrow else "array<long>"
    if "binary" in arrow:
        return "binary"
    if arrow == "bool":
        return "boolean"
    if "string" in arrow:
        return "string"
    if arrow.startswith("timestamp"):
        return "datetime"
    # pandas holds integers with gaps as floats.
    return "long" if "int" in arrow and not nullable else "double"


def _judge(
    spec: Spec,
    home: Home,
    folder: RunFolder,
    registered: Registered,
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Ask the gate, act on its verdict, and keep the verdict with its evidence."""
    champion = _champion(home, spec.model_name)
    is_crowned = champion is not None and champion.version == registered.version
    rival = _champion_before(home, registered) if is_crowned else champion
    if not is_crowned:
        tracking.set_alias(home, spec.model_name, CHALLENGER, registered.version)
    theirs = None
    if rival is not None and rival.digest != registered.digest:
        theirs = log_marginal_of(
            spec, folder, fetched(home, rival), rows=len(evaluation["log_marginal_per_row"])
        )
    verdict = judge(
        evaluation,
        min_active_units=spec.registry.min_active_units,
        confidence=spec.registry.confidence,
        champion_nats=theirs,
    )
    value = {
        **verdict.to_mapping(),
        "reason": verdict.reason,
        "champion_before": rival.version if rival else None,
    }
    tracking.log_table(home, registered.tags["mlflow_run"], "gate.json", value["checks"])
    outcome = "passed" if verdict.passed else "failed"
    for key, text in (("gate", outcome), ("gate_reason", verdict.reason)):
        tracking.tag_version(home, registered.name, registered.version, f"latents.{key}", text)
    if verdict.passed:
        crown(home, spec.model_name, registered.version, spec.dataset.name)
    elif champion is None:
        raise GateError(_refusal(registered, verdict))
    replace_file(folder.record("gate"), canonical_json(value).encode())
    return value


def _refusal(registered: Registered, verdict: Verdict) -> str:
    return (
        f"{registered.name} version {registered.version} did not pass the gate and there is no "
        f"champion, so nothing is published: {verdict.reason}.\n"
        f"Train longer or change the model; or decide yourself: latents promote "
        f"{registered.name} {registered.version}"
    )


def _champion(home: Home, name: str) -> Registered | None:
    champions = [found for found in tracking.versions(home, name) if CHAMPION in found.aliases]
    return champions[0] if champions else None


def _champion_before(home: Home, registered: Registered) -> Registered | None:
    """Who was champion when this one was crowned, by a run that was killed before it said so."""
    earlier = [v for v in tracking.champions(home, registered.name) if v != registered.version]
    known = tracking.versions(home, registered.name)
    return next((found for found in known if earlier and found.version == earlier[-1]), None)


def _current(home: Home, registered: Registered) -> Registered:
    """The version as the registry has it now, with its aliases."""
    return next(
        found
        for found in tracking.versions(home, registered.name)
        if found.version == registered.version
    )


def _encoder(home: Home, folder: RunFolder, registered: Registered) -> dict[str, Any]:
    """Which version encodes: the champion, be it this run's model or an earlier one."""
    champion = _champion(home, registered.name)
    if champion is None:
        raise GateError(
            f"{registered.name} has no champion, so nothing is published; choose one with: "
            f"latents promote {registered.name} {registered.version}"
        )
    ours = champion.digest == registered.digest
    return {
        "name": champion.name,
        "version": champion.version,
        "digest": champion.digest,
        "folder": str(folder.model if ours else fetched(home, champion)),
        "champion": True,
    }


def _sentence(registered: Registered, verdict: Mapping[str, Any]) -> str:
    if CHAMPION in registered.aliases:
        return f"passed the gate: {verdict['reason']}"
    if verdict["passed"]:
        return "passed the gate then; another version is champion now"
    return f"did not become champion: {verdict['reason']}"


def _git_commit() -> str:
    """The commit of this code, or '' where it is not a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()
