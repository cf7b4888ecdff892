"""The one file that speaks to MLflow: runs, metrics, the model registry and its aliases.

The truth of a run is on disk (`flows.runs`); what is here copies it into MLflow. Every
function may be called again: a run is found by its tag before one is created, a metric
logged twice is one metric, a model version is found by its digest.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType
from pandas import DataFrame
from sqlalchemy.exc import SQLAlchemyError

from data.durable import name_once, temporary_in
from data.publication import locked, safe_name
from flows import journal
from flows.redaction import redacted, scrubbed
from flows.settings import Home
from flows.shipped import PACKAGES, SERVED, shipped_code

logger = logging.getLogger(__name__)

RUN_TAG = "latents.run_id"
DIGEST_TAG = "latents.digest"
CHAMPION, CHALLENGER = "champion", "challenger"
TABLES_TAG = "mlflow.loggedArtifacts"  # where the user interface looks for tables
MAX_PARAM_LENGTH = 6000  # MLflow's limit for a value
MAX_BATCH = 1000  # MLflow's limit for one log_batch


class TrackingError(RuntimeError):
    """MLflow cannot be reached, or refuses; what was made on disk is whole."""


@dataclass(frozen=True)
class Registered:
    """A model version as the registry has it."""

    name: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    source: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Servable:
    """A model as it is logged: its folder, and what MLflow needs to serve it."""

    artifact: Path
    signature: ModelSignature
    example: DataFrame | None
    requirements: list[str]


def client(home: Home) -> MlflowClient:
    """A client of the tracking server, or of the sqlite file in `home`."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = home.tracking_uri
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(address)
    if chosen is None:  # it writes the variable, which would be the next home's, too
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        _make_tables(home)
    return MlflowClient(address)


def _make_tables(home: Home) -> None:
    """Make the sqlite file of a new home with MLflow's tables, whole or not at all.

    MLflow takes an empty database through all versions of its tables; who is killed meanwhile
    leaves some that it cannot make again, and no later start gets past them.
    """
    path = home.root / "mlflow.db"
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with locked(home.root / ".mlflow.lock"):
        if path.exists():
            return
        with temporary_in(home.root / ".staging" / ".tmp") as temporary:
            store = SqlAlchemyStore(f"sqlite:///{temporary}", str(home.artifacts))
            store.engine.dispose()
            name_once(temporary, path)


@contextmanager
def reaching(home: Home) -> Iterator[MlflowClient]:
    """Give a client; whatever goes wrong on the way to the server is a TrackingError."""
    try:
        yield client(home)
    except _failures() as error:
        what = scrubbed(str(error), home.tracking_uri)
        raise TrackingError(
            f"MLflow at {redacted(home.tracking_uri)} does not answer, or refuses: {what}\n"
            f"Nothing is lost: run the same command again when it answers"
        ) from None  # a traceback would show the address with its password


def _failures() -> tuple[type[Exception], ...]:
    """What may go wrong on the way to a server, a database or an object store."""
    ours: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, OSError)
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:  # the extra s3 is not installed
        return ours
    return (*ours, Boto3Error, BotoCoreError, ClientError)


def ensure_run(home: Home, *, experiment: str, run_id: str, params: Mapping[str, Any]) -> str:
    """The MLflow run of our `run_id`, made with its `params` if there is none.

    Raises:
        TrackingError: the server cannot be reached.
    """
    with reaching(home) as connection:
        experiment_id = _ensure_experiment(connection, home, experiment)
        found = connection.search_runs(
            [experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1
        )
        run = (
            found[0]
            if found
            else connection.create_run(experiment_id, run_name=run_id, tags={RUN_TAG: run_id})
        )
        missing = [  # all of a new run; some where whoever made it was killed then
            Param(key, str(value)[:MAX_PARAM_LENGTH])
            for key, value in params.items()
            if key not in run.data.params
        ]
        if missing:
            connection.log_batch(run.info.run_id, params=missing)
    return run.info.run_id


def _ensure_experiment(connection: MlflowClient, home: Home, name: str) -> str:
    existing = connection.get_experiment_by_name(name)
    if existing is not None:
        return existing.experiment_id
    local = home.artifacts if home.tracking_uri.startswith("sqlite:") else None
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
    with reaching(home) as connection:
        for start in range(0, len(metrics), MAX_BATCH):
            connection.log_batch(mlflow_run, metrics=metrics[start : start + MAX_BATCH])


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
    with reaching(home) as connection:
        connection.log_inputs(mlflow_run, [DatasetInput(dataset, [context])])


def log_artifact(home: Home, mlflow_run: str, path: Path) -> None:
    """Copy one file into the run's artifacts."""
    with reaching(home) as connection:
        connection.log_artifact(mlflow_run, str(path))


def log_files(home: Home, mlflow_run: str, folder: Path) -> None:
    """Copy the files of a folder into the run's artifacts, under the folder's name."""
    with reaching(home) as connection:
        connection.log_artifacts(mlflow_run, str(folder), folder.name)


def log_table(
    home: Home, mlflow_run: str, name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Keep `rows` as a table that MLflow shows, in place of one of that name."""
    with reaching(home) as connection:
        connection.log_text(mlflow_run, _split_oriented(rows), name)
        shown = json.loads(connection.get_run(mlflow_run).data.tags.get(TABLES_TAG, "[]"))
        this = {"path": name, "type": "table"}
        if this not in shown:
            connection.set_tag(mlflow_run, TABLES_TAG, json.dumps([*shown, this]))


def _split_oriented(rows: Sequence[Mapping[str, Any]]) -> str:
    # MLflow's own log_table appends to the table that is there: twice logged, twice as long.
    names = list(rows[0])
    return json.dumps(
        {"columns": names, "data": [[row[name] for name in names] for row in rows]}
    )


def end_run(home: Home, mlflow_run: str, *, failed: bool = False) -> None:
    """Mark the run as finished, or failed."""
    with reaching(home) as connection:
        connection.set_terminated(mlflow_run, status="FAILED" if failed else "FINISHED")


def register(
    home: Home,
    mlflow_run: str,
    model: Servable,
    *,
    name: str,
    digest: str,
    tags: Mapping[str, str],
) -> Registered:
    """Log a model and make it a version of `name`, once for each digest.

    The model is code (`flows/served_model.py` and the two packages it imports) beside a
    folder of safetensors and JSON: no pickle is written or read.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    with reaching(home) as connection:
        if known := with_digest(home, name, digest):
            return known
        logged = _log_model(mlflow_run, model)
        try:
            connection.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = connection.create_model_version(
            name,
            source=logged.model_uri,
            run_id=mlflow_run,
            tags={**tags, DIGEST_TAG: digest},
            model_id=logged.model_id,  # a server refuses a source without it
        )
        # A twin on another machine may have been as quick; the registry numbers versions one
        # after the other, so that the later of two always sees the earlier, and gives way.
        first = with_digest(home, name, digest)
        if first is not None and first.version < int(made.version):
            connection.delete_model_version(name, str(made.version))
            return first
    return _registered(made, {})


def with_digest(home: Home, name: str, digest: str) -> Registered | None:
    """The version of `name` that holds the artifact with this digest, if there is one."""
    found = (version for version in versions(home, name) if version.digest == digest)
    return next(found, None)


def _log_model(mlflow_run: str, model: Servable) -> ModelInfo:
    with shipped_code() as code, mlflow.start_run(mlflow_run), warnings.catch_warnings():
        # It asks for type hints; the signature says what they would.
        warnings.simplefilter("ignore", UserWarning)
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code / SERVED),
            artifacts={"model": str(model.artifact)},
            code_paths=[str(code / package) for package in PACKAGES],
            signature=model.signature,
            input_example=model.example,
            pip_requirements=model.requirements,
        )


def versions(home: Home, name: str) -> list[Registered]:
    """Every version of the model `name`, oldest first; empty when there is no such model."""
    try:
        safe_name(name)
    except ValueError:  # none of ours, and no part of a question to a database
        return []
    with reaching(home) as connection:
        found = connection.search_model_versions(f"name = '{name}'")
        if not found:
            return []
        aliases = connection.get_registered_model(name).aliases
    return sorted((_registered(version, aliases) for version in found), key=lambda v: v.version)


def model_names(home: Home) -> list[str]:
    """Names of the registered models."""
    with reaching(home) as connection:
        return sorted(model.name for model in connection.search_registered_models())


def run_metrics(home: Home, mlflow_run: str) -> dict[str, float]:
    """The last value of each metric of a run."""
    with reaching(home) as connection:
        return dict(connection.get_run(mlflow_run).data.metrics)


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
    """Point `alias` at `version`, keeping the journal of champions (`flows.journal`)."""
    with reaching(home) as connection:
        model = connection.get_registered_model(name)
        if alias == CHAMPION:
            before = journal.entries(model.tags)
            if not before or before[-1] != version:
                connection.set_registered_model_tag(name, *journal.entry(version))
            if int(model.aliases.get(CHALLENGER, -1)) == version:
                connection.delete_registered_model_alias(name, CHALLENGER)
        connection.set_registered_model_alias(name, alias, str(version))


def champions(home: Home, name: str) -> list[int]:
    """Every version that was champion, in order, the present one last.

    Of two writers at once the alias tells who came last; the journal may have it the other way.
    """
    with reaching(home) as connection:
        model = connection.get_registered_model(name)
    found = journal.entries(model.tags)
    present = int(model.aliases.get(CHAMPION, found[-1] if found else -1))
    return found if not found or found[-1] == present else [*found, present]


def download_model(version: Registered, home: Home, to: Path) -> None:
    """Fetch all that the registry holds of a version into `to`; see `flows.vault`."""
    with reaching(home):
        mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(to))


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


def tag_version(home: Home, name: str, version: int, key: str, value: str) -> None:
    """Write one tag of a model version."""
    with reaching(home) as connection:
        connection.set_model_version_tag(name, str(version), key, value[:MAX_PARAM_LENGTH])
