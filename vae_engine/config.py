"""What a person chooses about a model and its training: complete, frozen, plain values.

Nothing here is looked up by name later: a configuration that was accepted can be built. The
same dataclasses go to JSON and back (`to_mapping`, `from_mapping`) in artifacts and checkpoints.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIKELIHOODS = (
    "bernoulli",
    "gaussian",
    "student_t",
    "log_normal",
    "categorical",
    "ordinal",
    "poisson",
    "negative_binomial",
)
BINARIZATIONS = ("none", "dynamic", "static", "threshold")
ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "softplus")
NETWORKS = ("mlp",)
POSTERIORS = ("diagonal",)
PRIORS = ("standard",)
OPTIMIZERS = ("adam",)
OBJECTIVES = ("elbo", "elbo_sampled", "iwae")
PRECISIONS = ("float32", "bfloat16")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or outside its range."""


def known_keys(cls: type, mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return `mapping` as keyword arguments of the dataclass `cls`; lists become tuples.

    Raises:
        ConfigError: a key is not a field (the message offers the near miss), or a field
            without a default is absent. All of them at once.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    faults = []
    for key in mapping:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {sorted(fields)}"
            faults.append(f"unknown key {key!r}; {hint}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and name not in mapping:
            faults.append(f"key {name!r} is required")
    refuse(source, faults)
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in mapping.items()
    }


def refuse(source: str, faults: Sequence[str]) -> None:
    """Raise one ConfigError that lists every fault; do nothing when there is none."""
    if faults:
        raise ConfigError(f"{source}: " + "; ".join(faults))


def one_of(name: str, value: object, choices: Sequence[str]) -> list[str]:
    """Say what is wrong with a choice, and which name was probably meant."""
    if value in choices:
        return []
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {list(choices)}"
    return [f"{name} is {value!r}; {hint}"]


def at_least(name: str, value: object, least: int) -> list[str]:
    """Say what is wrong with a number that should be a whole one, `least` or more."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and value >= least:  # type: ignore[operator]  # whole says it is an int
        return []
    return [f"{name} is {value!r}; it must be a whole number, at least {least}"]


def positive(name: str, value: object) -> list[str]:
    """Say what is wrong with a number that should be finite and above zero."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > 0:  # type: ignore[arg-type,operator]
        return []
    return [f"{name} is {value!r}; it must be a finite number above 0"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table: which entries of `x` it owns, and its density.

    The density is in the units of the original column: value = shift + scale * x, and for
    `log_normal` value = exp(shift + scale * x). Pixels (`image` is set) hold raw intensities
    0..scale; their unit is intensity in [0, 1] = x / scale, and `shift` is not used.
    """

    name: str
    likelihood: str
    width: int = 1  # entries of x
    categories: int = 0  # categorical and ordinal: codes 0..categories-1
    shift: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0  # a tuple has one number per entry
    missing: bool = False  # may be NaN: marked in the encoder's input
    image: tuple[int, int, int] | None = None  # height, width, channels; channels last in x
    binarization: str = "none"  # bernoulli pixels only

    def __post_init__(self) -> None:
        faults = one_of("likelihood", self.likelihood, LIKELIHOODS)
        faults += one_of("binarization", self.binarization, BINARIZATIONS)
        faults += at_least("width", self.width, 1)
        if self.likelihood in ("categorical", "ordinal"):
            faults += at_least("categories", self.categories, 2)
            if self.width != 1:
                faults.append(f"width is {self.width}; a column of codes has one entry")
        if self.image is not None and math.prod(self.image) != self.width:
            faults.append(
                f"image {self.image} has {math.prod(self.image)} entries, not {self.width}"
            )
        if self.binarization != "none" and self.likelihood != "bernoulli":
            faults.append(f"binarization {self.binarization!r} is for the bernoulli likelihood")
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if isinstance(value, tuple) and len(value) != self.width:
                faults.append(f"{name} has {len(value)} numbers for {self.width} entries")
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        faults += [fault for value in scales for fault in positive("scale", value)][:1]
        refuse(f"column {self.name!r}", faults)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "Column":
        """Build a column from parsed JSON or TOML. A key we do not know is an error."""
        return cls(**known_keys(cls, mapping, source))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of one VAE: columns in the order of `x`, latents, networks."""

    columns: tuple[Column, ...]
    latents: int = 20
    network: str = "mlp"
    hidden: tuple[int, ...] = (500,)  # of the encoder; the decoder mirrors it
    activation: str = "tanh"
    posterior: str = "diagonal"
    prior: str = "standard"

    def __post_init__(self) -> None:
        faults = [] if self.columns else ["columns is empty; a model needs at least one"]
        names = [column.name for column in self.columns]
        faults += [
            f"column {n!r} occurs twice"
            for n in sorted({n for n in names if names.count(n) > 1})
        ]
        faults += at_least("latents", self.latents, 1)
        faults += [fault for width in self.hidden for fault in at_least("hidden", width, 1)]
        faults += one_of("network", self.network, NETWORKS)
        faults += one_of("activation", self.activation, ACTIVATIONS)
        faults += one_of("posterior", self.posterior, POSTERIORS)
        faults += one_of("prior", self.prior, PRIORS)
        refuse("model", faults)

    @property
    def features(self) -> int:
        """Entries of one row of `x`."""
        return sum(column.width for column in self.columns)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first entry of `x` that each column owns."""
        widths = [column.width for column in self.columns]
        return tuple(sum(widths[:k]) for k in range(len(widths)))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "ModelConfig":
        """Build a configuration from parsed JSON or TOML. A key we do not know is an error."""
        arguments = known_keys(cls, mapping, source)
        columns = tuple(
            column
            if isinstance(column, Column)
            else Column.from_mapping(column, source=f"{source}, column {k}")
            for k, column in enumerate(arguments["columns"])
        )
        return cls(**{**arguments, "columns": columns})

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `from_mapping` reads back."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How to train one model. Exactly one of `epochs` and `steps` says for how long."""

    seed: int
    epochs: int | None = None
    steps: int | None = None
    batch_rows: int = 100
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    objective: str = "elbo"
    samples: int = 1  # Monte Carlo draws of z per row
    clip_norm: float | None = 100.0  # of the gradient of the mean objective per row
    patience: int | None = None  # validations without a better ELBO before stopping
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        faults = at_least("seed", self.seed, 0)
        if (self.epochs is None) == (self.steps is None):
            faults.append("give either epochs or steps")
        faults += [] if self.epochs is None else at_least("epochs", self.epochs, 1)
        faults += [] if self.steps is None else at_least("steps", self.steps, 1)
        faults += at_least("batch_rows", self.batch_rows, 1)
        faults += at_least("samples", self.samples, 1)
        faults += positive("learning_rate", self.learning_rate)
        faults += [] if self.clip_norm is None else positive("clip_norm", self.clip_norm)
        faults += [] if self.patience is None else at_least("patience", self.patience, 1)
        faults += one_of("optimizer", self.optimizer, OPTIMIZERS)
        faults += one_of("objective", self.objective, OBJECTIVES)
        faults += one_of("precision", self.precision, PRECISIONS)
        refuse("training", faults)

    def total_steps(self, rows: int) -> int:
        """Steps that training on `rows` rows takes; the short last batch of an epoch counts."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * -(-rows // self.batch_rows)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "TrainingPlan":
        """Build a plan from parsed TOML. A key we do not know is an error."""
        return cls(**known_keys(cls, mapping, source))

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `from_mapping` reads back."""
        return dataclasses.asdict(self)
