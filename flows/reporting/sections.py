"""A run's records in the words and marks that the report shows, section by section."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.reporting.charts import Axis, Chart, lines, number
from flows.reporting.forests import probe_name
from flows.reporting.records import Records

SHOWN_COLUMNS = 200
SHOWN_LATENTS = 64
NEARLY_NATS = 0.05  # apart, two bounds are one number to a reader


def nats(estimate: Mapping[str, Any]) -> str:
    """A value in nats, as −102.61."""
    return f"{estimate['nats']:.2f}".replace("-", "−")


def stderr(estimate: Mapping[str, Any]) -> str:
    """Its standard error, as ± 0.84."""
    return f"± {estimate['stderr']:.2f}"


@dataclass(frozen=True)
class Stat:
    """One number of the headline."""

    label: str
    value: str
    note: str


def headline(records: Records) -> list[Stat]:
    """What a reader in a hurry takes away."""
    seen = records.evaluation
    bound, marginal, alone = seen["elbo"], seen["log_marginal"], seen["independent"]
    gain = marginal["nats"] - alone["nats"]
    stats = [
        Stat("log p(x)", nats(marginal), _over(marginal)),
        Stat("ELBO", nats(bound), _over(bound)),
        Stat("gain", signed(gain), "nats per row of log p(x) over independent columns"),
        Stat(
            "active units",
            f"{seen['active_units']} of {seen['latents']}",
            f"latents whose mean varies by more than {number(seen['active_threshold'])}",
        ),
    ]
    for probe in seen["probe"][:1]:
        kind, score = probe_name(probe)
        stats.append(
            Stat(
                f"{score} of {records.contract.label}",
                f"{probe['latents']:.3f}",
                f"± {probe['latents_stderr']:.3f}, {kind} probe; {probe['pca']:.3f} from PCA",
            )
        )
    return stats


def _over(estimate: Mapping[str, Any]) -> str:
    return f"{stderr(estimate)} nats per row, {estimate['rows']:,} test rows"


def signed(value: float) -> str:
    """A difference, as +3.10."""
    return f"{value:+.2f}".replace("-", "−")


def term(value: float, *, first: bool = False) -> str:
    """A term of a sum, as − 17.63; the first without its plus."""
    text = f"{abs(value):.2f}"
    if first:
        return f"−{text}" if value < 0 else text
    return f"− {text}" if value < 0 else f"+ {text}"


def when(time_ms: int) -> str:
    """A moment of the run, as 24 November 2025, 08:04 UTC."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def training_charts(records: Records) -> list[Chart]:
    """Learning curves; none where a run was too short to have two points."""
    rows = records.metrics
    if len(rows) < 2:
        return []
    epochs = [row["epoch"] for row in rows]
    best = next(
        (row["epoch"] for row in rows if row["step"] == records.trained.get("best_step")), None
    )
    weighted = (
        {"valid, IWAE": [row["valid/iwae_nats"] for row in rows]}
        if "valid/iwae_nats" in rows[0]
        else {}
    )
    return [
        lines(
            "bounds, nats per row" if weighted else "ELBO, nats per row",
            "epoch",
            epochs,
            {
                "train": [row["train/elbo_nats"] for row in rows],
                "valid": [row["valid/elbo_nats"] for row in rows],
                **weighted,
            },
            best=best,
        ),
        lines(
            "KL from the prior, nats per row",
            "epoch",
            epochs,
            {"train": [row["train/kl_nats"] for row in rows]},
            best=best,
        ),
        lines(
            "gradient norm",
            "epoch",
            epochs,
            {"train": [row["train/grad_norm"] for row in rows]},
            best=best,
            log=True,
        ),
    ]


@dataclass(frozen=True)
class LatentBar:
    """One latent's share of the work."""

    latent: int
    strength: float
    activity: float
    active: bool
    height: float  # percent of the largest


def latent_bars(records: Records) -> list[LatentBar]:
    """The strength of each latent, largest first."""
    seen, values = records.evaluation, records.strengths
    top = max(values) or 1.0
    order = sorted(range(len(values)), key=lambda k: (-values[k], k))[:SHOWN_LATENTS]
    return [
        LatentBar(
            k,
            values[k],
            seen["activity"][k],
            seen["activity"][k] > seen["active_threshold"],
            round(100 * values[k] / top, 2),
        )
        for k in order
    ]


@dataclass(frozen=True)
class LikelihoodBar:
    """One column's mean log-likelihood, as a bar from zero."""

    name: str
    likelihood: str
    nats: float
    left: float
    width: float
    note: str


def likelihood_bars(records: Records) -> list[LikelihoodBar]:
    """What each column adds to −distortion, lowest first."""
    found: Mapping[str, float] = records.evaluation["log_likelihood_per_column"]
    bits = records.evaluation["bits_per_dimension"]
    declared = {column["name"]: column for column in records.plan["model"]["columns"]}
    axis = Axis.around([0.0, *found.values()])
    zero = axis.percent(0.0)
    bars = []
    for name, value in sorted(found.items(), key=lambda item: item[1])[:SHOWN_COLUMNS]:
        at = axis.percent(value)
        column = declared[name]
        notes = [reconstructed(records.evaluation["reconstruction"][name], column)]
        if name in bits:
            notes.append(f"{bits[name]:.3f} bits per dimension")
        bars.append(
            LikelihoodBar(
                name,
                column["likelihood"].replace("_", " "),
                value,
                min(zero, at),
                round(abs(at - zero), 2),
                "; ".join(filter(None, notes)),
            )
        )
    return bars


def reconstructed(error: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    """How well a column comes back from the latents, in a unit that a person can judge."""
    value = error["value"]
    if value is None:
        return ""
    if error["measure"] == "wrong":
        return f"{value:.1%} come back wrong"
    unit = "of intensities from 0 to 1" if column["image"] else "standard deviations"
    return f"comes back within {value:.2f} {unit} (rms)"


def verdict(gate: Mapping[str, Any]) -> str:
    """The gate's checks in a line: those that failed with their evidence, else by name."""
    failed = [check for check in gate["checks"] if not check["passed"]]
    return "; ".join(evidence(check) for check in failed) or "; ".join(
        check["name"] for check in gate["checks"]
    )


def evidence(check: Mapping[str, Any]) -> str:
    """What was seen, without the question that stands above it."""
    return str(check["evidence"]).removeprefix(f"{check['name']}: ")


def information(records: Records) -> str:
    """How much of the rate tells rows apart; the rest of it is distance from the prior."""
    seen = records.evaluation
    least, rate = seen["mutual_information"], seen["rate"]
    most = min(seen.get("mutual_information_most", rate), rate, key=lambda end: end["nats"])
    known = f"{nats(least)} {stderr(least)}"
    if most["nats"] - least["nats"] > NEARLY_NATS:
        known = f"Between {known} and {nats(most)} {stderr(most)}"
    rows = f"{least['rows']:,} test rows"
    return (
        f"{known} nats of the rate tell rows apart: mutual information of x and z, against {rows}, "
        f"which cannot show more than {math.log(least['rows']):.2f}. The rest is how far the "
        f"latents of all rows together lie from the prior."
    )


def snippets(records: Records) -> list[tuple[str, str]]:
    """Lines that read the features, for each tool."""
    publication = records.publication
    if publication is None:
        return []
    name, key, data = records.snapshot.name, records.snapshot.key, publication["data"]
    first = "z_mean" if "z_mean" in publication["columns"] else "z_mean_000"
    opened = f"open_features({_quoted(name)}, home={_quoted(records.home.address)}"
    return [
        (
            "This project, with checks",
            f"from data.features import open_features\n\n"
            f"features = {opened})\n"
            f'frame = features.to_pandas(split="train")\n'
            f'z = features.to_numpy("z_mean")  # (rows, {publication["latents"]}) float32',
        ),
        (
            "This very publication, whatever is promoted later",
            f"from data.features import open_features\n\n"
            f"features = {opened},\n"
            f"    model_version={publication['model_version']},\n"
            f"    publication={_quoted(publication['id'])}, verify=True)",
        ),
        ("pandas", f"import pandas as pd\n\nframe = pd.read_parquet({_quoted(data)})"),
        ("Polars", f"import polars as pl\n\nframe = pl.read_parquet({_quoted(data)})"),
        (
            "DuckDB",
            f'import duckdb\n\nframe = duckdb.sql("""\n'
            f'    SELECT "{key}", {first}\n'
            f"    FROM read_parquet('{data}/*.parquet')\n"
            f"    WHERE split = 'test'\n"
            f'""").df()',
        ),
    ]


def _quoted(text: str) -> str:
    """A Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)
