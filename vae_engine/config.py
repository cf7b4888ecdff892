"""What a person chooses about a model and its training: complete, frozen, plain values.

Nothing here is looked up by name later: a configuration that was accepted can be built. The
same dataclasses go to JSON and back (`to_mapping`, `from_mapping`) in artifacts and checkpoints.
"""

import dataclasses
import math
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from vae_engine.checks import at_least, between, keys, one_of, positive

LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "gaussian_per_row",
    "student_t",
    "student_t_per_row",
    "log_normal",
    "categorical",
    "ordinal",
    "poisson",
    "negative_binomial",
    "zero_inflated_negative_binomial",
    "discretized_logistic",
)
BINARIZATIONS = ("none", "dynamic", "static", "threshold")
ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "softplus")
NETWORKS = ("mlp", "conv", "residual")
POSTERIORS = ("diagonal", "full", "iaf", "spline")
PRIORS = ("standard", "mixture", "vamp", "flow")
WEIGHTS = ("point", "variational")
OPTIMIZERS = ("adam", "adamw", "adagrad")
SCHEDULES = ("constant", "cosine", "iwae")
OBJECTIVES = (
    "elbo",
    "elbo_sampled",
    "elbo_sticking",
    "iwae",
    "iwae_doubly_reparameterized",
    "miwae",
    "piwae",
    "full_bayes",
    "wake_sleep",
    "mcem",
)
GROUPED = ("miwae", "piwae")
WEIGHTED = ("iwae", "iwae_doubly_reparameterized", *GROUPED)  # by importance
PRECISIONS = ("float32", "bfloat16")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or outside its range."""


def refuse(source: str, faults: Sequence[str]) -> None:
    """Raise one ConfigError that lists every fault; do nothing when there is none."""
    if faults:
        raise ConfigError(f"{source}: " + "; ".join(faults))


def arguments(cls: type, mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return `mapping` as keyword arguments of the dataclass `cls`.

    Lists become tuples, and whole numbers become floats where a float is declared: JSON and TOML
    write 1 for 1.0.
    """
    refuse(source, keys(cls, mapping))
    declared = {field.name: field.type for field in dataclasses.fields(cls)}
    values = {}
    for key, value in mapping.items():
        value = tuple(value) if isinstance(value, list) else value
        floats = float in (declared[key], *typing.get_args(declared[key]))
        values[key] = float(value) if floats and type(value) is int else value
    return values


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table: which entries of `x` it owns, and its density.

    The density is in the units of the original column: value = shift + scale * x, and for
    `log_normal` value = exp(shift + scale * x). Pixels (`image` is set) hold raw intensities
    0..scale; their unit is intensity in [0, 1] = x / scale, and `shift` is not used. Nor is it
    for `continuous_bernoulli` and `discretized_logistic`: any such column holds 0..scale.
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
    stddev: float | None = (
        None  # gaussian: noise that is not learned, in units of x (intensity)
    )
    components: int = 1  # discretized_logistic: logistics in the mixture

    def __post_init__(self) -> None:
        faults = one_of("likelihood", self.likelihood, LIKELIHOODS)
        faults += one_of("binarization", self.binarization, BINARIZATIONS)
        faults += at_least("width", self.width, 1) + at_least("components", self.components, 1)
        if self.likelihood in ("categorical", "ordinal"):
            faults += at_least("categories", self.categories, 2)
            if self.width != 1:
                faults.append(f"width is {self.width}; a column of codes has one entry")
        if self.image is not None and math.prod(self.image) != self.width:
            entries = math.prod(self.image)
            faults.append(f"image {self.image} has {entries} entries, not {self.width}")
        if self.binarization != "none" and self.likelihood != "bernoulli":
            faults.append(f"binarization {self.binarization!r} is for the bernoulli likelihood")
        if self.stddev is not None:
            faults += positive("stddev", self.stddev)
            if self.likelihood != "gaussian":
                faults.append("stddev is for the gaussian likelihood")
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if isinstance(value, tuple) and len(value) != self.width:
                faults.append(f"{name} has {len(value)} numbers for {self.width} entries")
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        faults += [fault for value in scales for fault in positive("scale", value)][:1]
        refuse(f"column {self.name!r}", faults)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "Column":
        """Build a column from parsed JSON or TOML. A key we do not know is an error."""
        return cls(**arguments(cls, mapping, source))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of one VAE: columns in the order of `x`, latents, networks."""

    columns: tuple[Column, ...]
    latents: int = 20  # of the layer next to x
    upper_latents: int | None = None  # of a second stochastic layer above it
    network: str = "mlp"
    hidden: tuple[int, ...] = (
        500,
    )  # of the encoder, the decoder mirrors it; channels of images
    upper_hidden: tuple[int, ...] = (100,)  # between the two stochastic layers
    activation: str = "silu"
    posterior: str = "diagonal"
    prior: str = "standard"
    components: int = 50  # of the priors mixture and vamp
    transforms: int = 2  # of a posterior or a prior that is a flow
    transform_hidden: tuple[int, ...] = (64,)
    one_hot_up_to: int = 64  # categories; more of them are embedded
    embedding_width: int = 16
    principal_components: int = 0  # that the encoder sees instead of wide vectors; 0: no such
    weights: str = "point"  # variational: the decoder's weights have a posterior (appendix F)
    initial_stddev: float | None = None  # of all weights; None: Glorot's rule

    def __post_init__(self) -> None:
        faults = [] if self.columns else ["columns is empty; a model needs at least one"]
        names = Counter(column.name for column in self.columns)
        twice = sorted(name for name, count in names.items() if count > 1)
        faults += [f"column {name!r} occurs twice" for name in twice]
        for name in ("latents", "components", "transforms", "one_hot_up_to", "embedding_width"):
            faults += at_least(name, getattr(self, name), 1)
        faults += at_least("principal_components", self.principal_components, 0)
        for name in ("hidden", "upper_hidden", "transform_hidden"):
            faults += [f for width in getattr(self, name) for f in at_least(name, width, 1)]
        faults += one_of("network", self.network, NETWORKS)
        faults += one_of("activation", self.activation, ACTIVATIONS)
        faults += one_of("posterior", self.posterior, POSTERIORS)
        faults += one_of("prior", self.prior, PRIORS)
        faults += one_of("weights", self.weights, WEIGHTS)
        if self.initial_stddev is not None:
            faults += positive("initial_stddev", self.initial_stddev)
        refuse("model", faults + self._combinations())

    def _combinations(self) -> list[str]:
        """Fault settings that are right alone and wrong together."""
        faults = []
        images = [column for column in self.columns if column.image is not None]
        if self.network != "mlp" and len(images) != 1:
            faults.append(
                f"network {self.network!r} needs one column of pixels, not {len(images)}"
            )
        if self.network != "mlp" and not self.hidden:
            faults.append(f"network {self.network!r} needs hidden, the channels of each level")
        if self.principal_components and self.network != "mlp":
            faults.append(f"principal_components hide the pixels from network {self.network!r}")
        if self.prior == "vamp" and self.posterior not in ("diagonal", "full"):
            faults.append(
                f"prior 'vamp' is a mixture of posteriors, and {self.posterior!r} is slow"
            )
        if self.upper_latents is not None:
            faults += at_least("upper_latents", self.upper_latents, 1)
            if (self.posterior, self.prior) != ("diagonal", "standard"):
                faults.append("upper_latents needs posterior 'diagonal' and prior 'standard'")
        if "flow" in self.prior and self.latents < 2:
            faults.append("prior 'flow' needs two latents or more")
        if self.posterior in ("iaf", "spline") and self.latents < 2:
            faults.append(f"posterior {self.posterior!r} needs two latents or more")
        return faults

    @property
    def features(self) -> int:
        """Entries of one row of `x`."""
        return sum(column.width for column in self.columns)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first entry of `x` that each column owns."""
        ends = accumulate((column.width for column in self.columns), initial=0)
        return tuple(ends)[:-1]

    @property
    def total_latents(self) -> int:
        """Coordinates of z, both stochastic layers."""
        return self.latents + (self.upper_latents or 0)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "ModelConfig":
        """Build a configuration from parsed JSON or TOML. A key we do not know is an error."""
        settings = arguments(cls, mapping, source)
        columns = tuple(
            column
            if isinstance(column, Column)
            else Column.from_mapping(column, source=f"{source}, column {k}")
            for k, column in enumerate(settings["columns"])
        )
        return cls(**{**settings, "columns": columns})

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
    objective: str = "elbo"
    samples: int = 1  # Monte Carlo draws of z per row
    groups: int | None = None  # M of miwae and piwae: `samples` are M groups of K
    beta: float = 1.0  # weight of the KL in what is maximized; reports have the plain ELBO
    warmup_steps: int = 0  # over which beta rises from 0
    free_nats: float = 0.0  # of each latent's KL, which cost nothing
    free_steps: int | None = None  # over which they cost nothing; None: always
    weight_prior: bool = False  # p(theta) = N(0, I): maximum a posteriori, as in the paper
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw
    epsilon: float = 1e-8
    weight_decay: float = 0.0  # adamw
    average_decay: float | None = None  # of the moving average of the weights
    clip_norm: float | None = 100.0  # of the gradient of the mean objective per row
    patience: int | None = None  # validations without a better bound before stopping
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        faults = at_least("seed", self.seed, 0)
        if (self.epochs is None) == (self.steps is None):
            faults.append("give either epochs or steps")
        for name in ("epochs", "steps", "patience", "groups", "free_steps"):
            value = getattr(self, name)
            faults += [] if value is None else at_least(name, value, 1)
        faults += at_least("batch_rows", self.batch_rows, 1)
        faults += at_least("samples", self.samples, 1)
        faults += at_least("warmup_steps", self.warmup_steps, 0)
        faults += positive("learning_rate", self.learning_rate)
        faults += positive("epsilon", self.epsilon)
        faults += [] if self.clip_norm is None else positive("clip_norm", self.clip_norm)
        for name in ("beta", "free_nats", "weight_decay"):
            faults += between(name, getattr(self, name), 0.0, math.inf)
        faults += [fault for beta in self.betas for fault in between("betas", beta, 0.0, 1.0)]
        if self.average_decay is not None:
            faults += between("average_decay", self.average_decay, 0.0, 1.0)
        faults += one_of("optimizer", self.optimizer, OPTIMIZERS)
        faults += one_of("schedule", self.schedule, SCHEDULES)
        faults += one_of("objective", self.objective, OBJECTIVES)
        faults += one_of("precision", self.precision, PRECISIONS)
        refuse("training", faults + self._combinations())

    def _combinations(self) -> list[str]:
        """Fault settings that are right alone and wrong together."""
        faults = []
        weighted = self.beta != 1 or self.warmup_steps or self.free_nats
        if weighted and self.objective != "elbo":
            faults.append(f"beta, warmup_steps and free_nats do not go with {self.objective!r}")
        if self.free_steps is not None and not self.free_nats:
            faults.append("free_steps says how long free_nats are free, and there are none")
        if (self.objective in GROUPED) != (self.groups is not None):
            faults.append(f"groups is for {' and '.join(GROUPED)}, and they need it")
        elif self.groups is not None and self.samples % self.groups:
            faults.append(
                f"samples is {self.samples}, which {self.groups} groups do not share evenly"
            )
        if self.weight_prior and self.objective == "full_bayes":
            faults.append("weight_prior is part of objective 'full_bayes' already")
        if self.weight_decay and self.optimizer != "adamw":
            faults.append("weight_decay is for optimizer 'adamw'")
        return faults

    def total_steps(self, rows: int) -> int:
        """Steps that training on `rows` rows takes; the short last batch of an epoch counts."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * -(-rows // self.batch_rows)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str) -> "TrainingPlan":
        """Build a plan from parsed TOML. A key we do not know is an error."""
        return cls(**arguments(cls, mapping, source))

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `from_mapping` reads back."""
        return dataclasses.asdict(self)
