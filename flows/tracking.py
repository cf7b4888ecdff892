"""The one file that speaks to MLflow: runs, metrics, the model registry and its aliases.

The truth of a run is on disk (`flows.runs`); what is here copies it into MLflow. Every
function may be called again: a run is found by its tag before one is created, a metric
logged twice is one metric, a model version is found by its digest.
"""

import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType

from flows.settings import Home

logger = logging.getLogger(__name__)

RUN_TAG = "latents.run_id"
DIGEST_TAG = "latents.digest"
CHAMPION, CHALLENGER = "champion", "challenger"
MAX_PARAM_LENGTH = 6000  # MLflow's limit for a value
MAX_BATCH = 1000  # MLflow's limit for one log_batch


class TrackingError(RuntimeError):
    """MLflow cannot be reached, or refuses."""


@dataclass(frozen=True)
class Registered:
    """A model version as the registry has it."""

    name: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    source: str
    tags: Mapping[str, str]


def client(home: Home) -> MlflowClient:
    """A client of the tracking server, or of the sqlite file in `home`."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(home.tracking_uri)
    return MlflowClient(home.tracking_uri)


def ensure_run(home: Home, *, experiment: str, run_id: str, params: Mapping[str, Any]) -> str:
    """The MLflow run of our `run_id`, made with its `params` if there is none.

    Raises:
        TrackingError: the server cannot be reached.
    """
    try:
        connection = client(home)
        experiment_id = _ensure_experiment(connection, home, experiment)
        found = connection.search_runs(
            [experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1
        )
        if found:
            return found[0].info.run_id
        run = connection.create_run(experiment_id, run_name=run_id, tags={RUN_TAG: run_id})
        rows = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()]
        connection.log_batch(run.info.run_id, params=rows)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow at {home.tracking_uri} is not reachable: {error}"
        ) from error
    return run.info.run_id


def _ensure_experiment(connection: MlflowClient, home: Home, name: str) -> str:
    existing = connection.get_experiment_by_name(name)
    if existing is not None:
        return existing.experiment_id
    local = str(home.artifacts) if home.tracking_uri.startswith("sqlite:") else None
    try:
        return connection.create_experiment(name, artifact_location=local)
    except MlflowException:
        twin = connection.get_experiment_by_name(name)  # created by another run meanwhile
        if twin is None:
            raise
        return twin.experiment_id


def log_metrics(home: Home, mlflow_run: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Log rows of `metrics.jsonl`: each has `step`, `time_ms` and numbers by metric name.

    Raises:
        TrackingError: the server cannot be reached.
    """
    metrics = [
        Metric(key, float(value), int(row["time_ms"]), int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key not in {"step", "time_ms"}
    ]
    try:
        connection = client(home)
        for start in range(0, len(metrics), MAX_BATCH):
            connection.log_batch(mlflow_run, metrics=metrics[start : start + MAX_BATCH])
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow at {home.tracking_uri} is not reachable: {error}"
        ) from error


def log_dataset(
    home: Home, mlflow_run: str, *, name: str, fingerprint: str, source: str, rows: int
) -> None:
    """Record the snapshot as the run's input, under our own digest of its whole content.

    MLflow's digests read the first 10,000 rows only.
    """
    dataset = Dataset(
        name=name,
        digest=fingerprint,
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": rows}),
    )
    context = InputTag("mlflow.data.context", "training")
    client(home).log_inputs(mlflow_run, [DatasetInput(dataset, [context])])


def log_artifact(home: Home, mlflow_run: str, path: Path) -> None:
    """Copy one file into the run's artifacts.

    Raises:
        TrackingError: the server cannot be reached.
    """
    try:
        client(home).log_artifact(mlflow_run, str(path))
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow at {home.tracking_uri} is not reachable: {error}"
        ) from error


def end_run(home: Home, mlflow_run: str, *, failed: bool = False) -> None:
    """Mark the run as finished, or failed."""
    client(home).set_terminated(mlflow_run, status="FAILED" if failed else "FINISHED")


def register(
    home: Home,
    mlflow_run: str,
    *,
    name: str,
    artifact: Path,
    digest: str,
    signature: ModelSignature,
    requirements: list[str],
    tags: Mapping[str, str],
) -> Registered:
    """Log `artifact` as a model and make it a version of `name`, once for each digest.

    The model is code (`flows/served_model.py` and the two packages it imports) beside a
    folder of safetensors and JSON: no pickle is written or read.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    try:
        for version in versions(home, name):
            if version.digest == digest:
                return version
        source = _log_model(home, mlflow_run, artifact, signature, requirements)
        connection = client(home)
        try:
            connection.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = connection.create_model_version(
            name, source=source, run_id=mlflow_run, tags={**tags, DIGEST_TAG: digest}
        )
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"registry {home.tracking_uri} is not reachable: {error}"
        ) from error
    return _registered(made, {})


def _log_model(
    home: Home,
    mlflow_run: str,
    artifact: Path,
    signature: ModelSignature,
    requirements: list[str],
) -> str:
    client(home)
    here = Path(__file__).parent
    with mlflow.start_run(run_id=mlflow_run), warnings.catch_warnings():
        # It asks for type hints and an input example; the signature says both.
        warnings.simplefilter("ignore", UserWarning)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(here / "served_model.py"),
            artifacts={"model": str(artifact)},
            code_paths=[str(here.parent / "vae_engine"), str(here.parent / "data")],
            signature=signature,
            pip_requirements=requirements,
        )
    return str(info.model_uri)


def versions(home: Home, name: str) -> list[Registered]:
    """Every version of the model `name`, oldest first; empty when there is no such model."""
    try:
        connection = client(home)
        found = connection.search_model_versions(f"name = '{name}'")
        if not found:
            return []
        aliases = connection.get_registered_model(name).aliases
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"registry {home.tracking_uri} is not reachable: {error}"
        ) from error
    return sorted((_registered(version, aliases) for version in found), key=lambda v: v.version)


def model_names(home: Home) -> list[str]:
    """Names of the registered models."""
    return sorted(model.name for model in client(home).search_registered_models())


def run_metrics(home: Home, mlflow_run: str) -> dict[str, float]:
    """The last value of each metric of a run."""
    return dict(client(home).get_run(mlflow_run).data.metrics)


def _registered(version: ModelVersion, aliases: Mapping[str, str]) -> Registered:
    number = int(version.version)
    return Registered(
        name=version.name,
        version=number,
        digest=version.tags.get(DIGEST_TAG, ""),
        aliases=tuple(sorted(alias for alias, v in aliases.items() if int(v) == number)),
        source=version.source or "",
        tags=dict(version.tags) | {"mlflow_run": version.run_id or ""},
    )


def set_alias(home: Home, name: str, alias: str, version: int) -> None:
    """Point `alias` at `version`, keeping the journal of champions in the model's tags.

    MLflow keeps no history of aliases, so that a rollback needs one of our own.
    """
    connection = client(home)
    if alias == CHAMPION:
        journal = champions(home, name)
        if not journal or journal[-1] != version:
            connection.set_registered_model_tag(
                name, "latents.champions", json.dumps([*journal, version])
            )
        challenger = connection.get_registered_model(name).aliases.get(CHALLENGER)
        if challenger is not None and int(challenger) == version:
            connection.delete_registered_model_alias(name, CHALLENGER)
    connection.set_registered_model_alias(name, alias, str(version))


def champions(home: Home, name: str) -> list[int]:
    """Every version that was champion, in order, the present one last."""
    tags = client(home).get_registered_model(name).tags
    return list(json.loads(tags.get("latents.champions", "[]")))


def download_model(version: Registered, home: Home, to: Path) -> Path:
    """Fetch the artifact folder of a version into `to`; verify it before you load it."""
    client(home)
    to.mkdir(parents=True, exist_ok=True)
    mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(to))
    found = sorted(to.rglob("SHA256SUMS"))
    if not found:
        raise TrackingError(f"{version.name} version {version.version} holds no SHA256SUMS")
    return found[0].parent


def signature_of(
    inputs: Iterable[tuple[str, str, bool]], outputs: Iterable[str]
) -> ModelSignature:
    """A signature from (column, MLflow type, required) and the names of the features."""
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(
            Array(DataType.float if kind.endswith("float") else DataType.long)
            if kind.startswith("array")
            else kind,
            name,
            required=required,
        )
        for name, kind, required in inputs
    ]
    return ModelSignature(
        inputs=Schema(columns), outputs=Schema([ColSpec("float", name) for name in outputs])
    )


def tag_version(home: Home, version: Registered, key: str, value: str) -> None:
    """Write one tag of a model version."""
    client(home).set_model_version_tag(
        version.name, str(version.version), key, value[:MAX_PARAM_LENGTH]
    )
