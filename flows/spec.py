"""What a person writes: the spec (TOML), its defaults, and errors that name the near miss.

Three things may stand for a spec: a name in the catalog, a TOML file, or simply the data
(a file, a folder, a glob or a URL), in which case everything is inferred.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
)

from data import catalog
from data.publication import safe_name
from flows.redaction import holds_secret, redacted

MOST_BYTES = 1 << 20  # of a spec: they are written by hand
NO_TOML = (ValueError, RecursionError)  # malformed, no text, or digits or brackets without end


class SpecError(ValueError):
    """The spec, or a `--set` on the command line, cannot be understood."""


class Section(BaseModel):
    """A table of the spec: frozen, and an unknown key is an error."""

    # An input that is refused may hold a secret: no message repeats it.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True
    )


class SplitSection(Section):
    """Fractions of the rows held out, chosen by a hash of the key, or a column that says it."""

    column: str | None = None  # its values: train, valid, test; what it lacks, the hash chooses
    valid: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)


class CsvSection(Section):
    """How a text table is written (see `data.csv_dialect.CsvDialect`); None means: as it is found."""

    encoding: str | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    decimal: str | None = Field(None, min_length=1, max_length=1)
    header: StrictBool | None = None
    skip: StrictInt | None = Field(None, ge=0)
    row_names: StrictBool | None = None
    nulls: list[str] | None = None


class DatasetSection(Section):
    """Where the data are, and what cannot be inferred from them."""

    name: str
    source: str
    obtain: str | None = None  # where the data come from, for a spec that cannot bring them
    key: str | None = None
    label: str | None = None
    query: str | None = None  # where the source is a database
    extra: Literal["ignore", "refuse"] = "ignore"  # columns that the contract does not know
    contract_version: int = Field(1, ge=1)  # raise it to infer the contract anew
    columns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    split: SplitSection = SplitSection()
    csv: CsvSection = CsvSection()

    @field_validator("source")
    @classmethod
    def _source_without_secrets(cls, source: str) -> str:
        """A spec is stored and shown in many places: in none of them a password."""
        if holds_secret(source):
            raise ValueError(
                f"{redacted(source)} holds a password or token, and a spec is stored and shown. "
                f"Leave it out, and give it to the run's environment "
                f"(AWS_SECRET_ACCESS_KEY, PGPASSWORD, ...)"
            )
        return source


class ModelSection(Section):
    """The model; None means: chosen from the data (see `flows.handoff`).

    The settings are those of `vae_engine.config.ModelConfig`, which says what each one means.
    """

    latents: int | None = Field(None, ge=1, le=4096)
    upper_latents: int | None = Field(None, ge=1, le=4096)
    network: str | None = None
    hidden: tuple[int, ...] | None = None
    upper_hidden: tuple[int, ...] | None = None
    activation: str | None = None
    posterior: str | None = None
    prior: str | None = None
    components: int | None = Field(None, ge=1)
    transforms: int | None = Field(None, ge=1)
    transform_hidden: tuple[int, ...] | None = None
    one_hot_up_to: int | None = Field(None, ge=1)
    embedding_width: int | None = Field(None, ge=1)
    principal_components: int | None = Field(None, ge=0)
    weights: str | None = None
    initial_stddev: float | None = Field(None, gt=0)
    likelihoods: dict[str, str] = Field(default_factory=dict)  # by column, or by kind
    binarization: Literal["none", "dynamic", "static", "threshold"] | None = None


class TrainingSection(Section):
    """How the model is trained; None means: the engine's default, or chosen from the data.

    The settings are those of `vae_engine.config.TrainingPlan`.
    """

    seed: int = Field(0, ge=0)
    rows: int | None = Field(None, ge=2)  # train on so many only, those with the lowest keys
    memory_bytes: int | None = Field(None, ge=0)  # rows that take more are packed on disk
    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_rows: int | None = Field(None, ge=1)
    objective: str | None = None
    samples: int | None = Field(None, ge=1)
    groups: int | None = Field(None, ge=1)
    beta: float | None = Field(None, ge=0)
    warmup_steps: int | None = Field(None, ge=0)
    free_nats: float | None = Field(None, ge=0)
    free_steps: int | None = Field(None, ge=1)
    weight_prior: bool | None = None
    optimizer: str | None = None
    learning_rate: float | None = Field(None, gt=0)
    schedule: str | None = None
    betas: tuple[float, float] | None = None
    epsilon: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    average_decay: float | None = Field(None, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    patience: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str | None = None


class EvaluationSection(Section):
    """How the model is measured on the test split."""

    estimators: tuple[Literal["importance", "annealing", "density", "bidirectional"], ...] = (
        "importance",
        "bidirectional",
    )
    importance_samples: int = Field(
        500, ge=2
    )  # of each row; the most, where effort is adaptive
    tolerance_nats: float | None = Field(None, ge=0)  # standard error of each row's log p(x)
    budget_s: float | None = Field(None, ge=0)  # for effort beyond the first samples
    rows: int = Field(1000, ge=2)  # test rows whose log p(x) is estimated
    annealed_rows: int = Field(100, ge=2)  # of them, by the dearer estimators
    simulated_rows: int = Field(16, ge=2)  # drawn from the model, bounded from both sides
    temperatures: int = Field(100, ge=1)
    chains: int = Field(8, ge=2)
    stability: bool = False  # train again from another seed and compare the features
    seed: int = 0


class EncodingSection(Section):
    """What the features tables hold."""

    columns: tuple[Literal["mean", "stddev", "samples", "elbo"], ...] = ("mean", "stddev")
    samples: int = Field(1, ge=1)
    batch_rows: int = Field(1024, ge=1)
    layout: Literal["wide", "vector"] = "wide"


class RegistrySection(Section):
    """The registered model's name and what the gate asks of a challenger."""

    model: str | None = None
    min_active_units: int = Field(1, ge=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    # What a version shows as its input: made-up rows, or real ones that readers then see.
    input_example: Literal["synthetic", "rows", "none"] = "synthetic"


class ScheduleSection(Section):
    """When a deployment of this spec runs."""

    cron: str | None = None
    timezone: str = "UTC"
    on: tuple[Literal["arrival", "drift"], ...] = ()  # events that start a run
    timeout_s: float = Field(7 * 86_400, gt=0)  # then a run is stopped; the next goes on


class ExecutionSection(Section):
    """Where the work runs: what comes out is the same, a training to rounding."""

    engine: Literal["local", "ray"] = "local"
    address: str | None = None  # of a Ray cluster; else $RAY_ADDRESS, else this machine
    processes: int = Field(1, ge=1)  # of a training: here, or workers of Ray's
    # That encodes and estimates log p(x); a training has its own. Last bits depend on it.
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    compiled: bool = False  # the objective of a training on a GPU, by torch.compile


class Spec(Section):
    """Everything a pipeline run is told."""

    dataset: DatasetSection
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    encoding: EncodingSection = EncodingSection()
    registry: RegistrySection = RegistrySection()
    schedule: ScheduleSection = ScheduleSection()
    execution: ExecutionSection = ExecutionSection()
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict)  # "model.latents" = [2, 5]

    @property
    def asks_for_gpu(self) -> bool:
        """Whether it says itself that something is to be computed on a GPU."""
        devices = self.training.device, self.execution.device
        return any(device.startswith("cuda") for device in devices)

    @property
    def model_name(self) -> str:
        """The registered model's name: as the spec says, else the data set's."""
        return self.registry.model or self.dataset.name


def load_spec(text: str, overrides: Sequence[str] = ()) -> Spec:
    """Read the spec that `text` stands for, with `section.key=value` overrides.

    Raises:
        SpecError: `text` is no spec, file or catalog name, the TOML is malformed, or a key
            or value is wrong. The message lists every wrong key.
    """
    mapping, origin = _mapping_of(text)
    for assignment in overrides:
        _apply(mapping, assignment)
    dataset = mapping.get("dataset", {})
    if "source" not in dataset and "obtain" in dataset:
        raise SpecError(
            f"{origin} comes without its data. {dataset['obtain']} "
            f"Then give the file: --set dataset.source=PATH"
        )
    return _validated(mapping, origin)


def override(spec: Spec, settings: Mapping[str, Any]) -> Spec:
    """The spec with other settings, given by dotted key, and without its sweep.

    Raises:
        SpecError: a key is unknown or a value is wrong.
    """
    mapping = spec.model_dump(mode="json", exclude={"sweep"})
    for key, value in settings.items():
        section, _, name = key.partition(".")
        _merge(mapping, {section: {name: value}}, key)
    return _validated(mapping, f"the sweep of {spec.dataset.name!r}")


def _mapping_of(text: str) -> tuple[dict[str, Any], str]:
    path = Path(text).expanduser()
    if path.suffix == ".toml":
        return _read_toml(path), str(path)
    if path.exists():
        return {"dataset": {"name": _name_from(path), "source": str(path.resolve())}}, text
    if re.match(r"^[a-z][a-z0-9+.-]*://", text) or any(mark in text for mark in "*?["):
        bare = Path(re.sub(r"[*?\[\]]+", "", text.split("://")[-1].split("?")[0]))
        return {"dataset": {"name": _name_from(bare), "source": text}}, redacted(text)
    if text in catalog.names():
        found = catalog.find(text)
        return _read_toml(found), f"catalog spec {text!r}"
    near = difflib.get_close_matches(text, [*catalog.names(), *_neighbours(path)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the catalog has {catalog.names()}"
    raise SpecError(
        f"{text!r} is neither a data file, a spec nor a name in the catalog; {hint}"
    )


def _neighbours(path: Path) -> list[str]:
    folder = path.parent
    return [str(folder / entry.name) for entry in folder.iterdir()] if folder.is_dir() else []


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        mapping = tomllib.loads(content.decode())
    except FileNotFoundError:
        near = difflib.get_close_matches(str(path), _neighbours(path), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"spec {path} does not exist{hint}") from None
    except OSError as error:
        raise SpecError(f"spec {path} cannot be read: {error.strerror}") from None
    except NO_TOML as error:
        raise SpecError(f"spec {path} is not valid TOML: {error}") from None
    dataset = mapping.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("source"), str):
        dataset["source"] = _beside(path, dataset["source"])
        dataset.setdefault("name", _name_from(path))
    return mapping


def _beside(spec: Path, source: str) -> str:
    """A relative path in a spec starts at the spec's own folder."""
    if "://" in source or source.lstrip().lower().startswith("select "):
        return source
    return str((spec.resolve().parent / Path(source).expanduser()).absolute())


def _name_from(path: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.split(".")[0].lower()).strip("-._")
    return name[:64] or "dataset"


def _apply(mapping: dict[str, Any], assignment: str) -> None:
    """Merge `section.key=value`, a line of TOML; a value that is no TOML is a string."""
    path, mark, raw = assignment.partition("=")
    if not mark or "." not in path:
        raise SpecError(f"--set {assignment!r} is not of the form section.key=value")
    for value in (raw, json.dumps(raw.strip())):
        try:
            said = tomllib.loads(f"{path} = {value}")
        except NO_TOML:
            continue
        _merge(mapping, said, assignment)
        return
    raise SpecError(f"--set {assignment!r} is not of the form section.key=value")


def _merge(mapping: dict[str, Any], said: Mapping[str, Any], assignment: str) -> None:
    for key, value in said.items():
        if not isinstance(value, dict):
            mapping[key] = value
        elif isinstance(mapping.setdefault(key, {}), dict):
            _merge(mapping[key], value, assignment)
        else:
            raise SpecError(f"--set {assignment}: {key!r} is a value, not a table")


def _validated(mapping: Mapping[str, Any], origin: str) -> Spec:
    try:
        spec = Spec.model_validate(mapping)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise SpecError(
            f"{origin} has {len(lines)} wrong keys or values:\n  " + "\n  ".join(lines)
            if len(lines) > 1
            else f"{origin}: {lines[0]}"
        ) from None
    try:
        safe_name(spec.dataset.name)
        safe_name(spec.model_name)
    except ValueError as error:
        raise SpecError(f"{origin}: {error}") from None
    return spec


def _explain(problem: Mapping[str, Any]) -> str:
    location = problem["loc"]
    where = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where}; {hint}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if where == "dataset.source":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{where} = {problem['input']!r}: {problem['msg']}"


def _known_keys(location: Sequence[Any]) -> list[str]:
    section: Any = Spec
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
