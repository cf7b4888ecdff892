"""An evaluation's record as tables, each of them a list of rows of one shape: what MLflow shows.

estimates    every bound and estimate, in nats with its standard error
columns      log-likelihood and reconstruction error of each column
latents      KL and activity of each latent
pareto_k     how many rows have a k-hat in which range
probes       what is read from latents, from PCA and from the raw columns
stability    how well the features of a second training and of this one predict each other
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

Table = list[dict[str, Any]]

SHOWN = ("nats", "stderr", "rows", "split")  # of an estimate; a record may hold more

ESTIMATES: Mapping[str, str] = {
    "elbo": "lower bound",
    "distortion": "term of the bound",
    "rate": "term of the bound",
    "mutual_information": "lower bound",
    "mutual_information_most": "upper bound",
    "log_marginal": "biased low",
    "annealed": "biased low",
    "density": "biased high",
    "independent": "another model",
    "factor_analysis": "another model",
}
BOUNDS: Mapping[str, str] = {
    "lower": "lower bound",
    "upper": "upper bound",
    "width": "difference of bounds",
}


def estimates(record: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every estimate that a record has: its name, what it is, its mapping with nats and stderr."""
    for name, kind in ESTIMATES.items():
        if record.get(name) is not None:
            yield name, kind, record[name]
    for name, kind in BOUNDS.items():
        if name in record.get("bounds", {}):
            yield f"bound_{name}", kind, record["bounds"][name]


def metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that MLflow plots, each estimate with its standard error."""
    found: dict[str, float] = {}
    for name, _, estimate in estimates(record):
        found[f"test/{name}_nats"] = estimate["nats"]
        found[f"test/{name}_nats_stderr"] = estimate["stderr"]
    found |= {
        "test/active_units": record["active_units"],
        "test/untrusted_fraction": record["untrusted_fraction"],
        "test/impossible_rows": record["log_marginal"]["impossible_rows"],
    }
    for probe in record["probe"]:
        for features in ("latents", "pca", "inputs"):
            name = f"probe/{probe['name']}_{features}"
            found[name] = probe[features]
            found[f"{name}_stderr"] = probe[f"{features}_stderr"]
    for row in _stability(record):
        found[f"stability/{row['predicted']}_r2"] = row["r2"]
        found[f"stability/{row['predicted']}_r2_stderr"] = row["stderr"]
    return {name: number for name, number in found.items() if math.isfinite(number)}


def tables(record: Mapping[str, Any]) -> dict[str, Table]:
    """Every table that has a row, by name."""
    found = {
        "estimates": [
            {"estimate": name, "is": kind, **{key: estimate[key] for key in SHOWN}}
            for name, kind, estimate in estimates(record)
        ],
        "columns": _columns(record),
        "latents": _latents(record),
        "pareto_k": _pareto_k(record["log_marginal"]["pareto_k"]),
        "probes": [dict(probe) for probe in record["probe"]],
        "stability": _stability(record),
    }
    return {name: rows for name, rows in found.items() if rows}


def _columns(record: Mapping[str, Any]) -> Table:
    errors = record["log_likelihood_per_column_stderr"]
    return [
        {
            "column": name,
            "log_likelihood_nats": nats,
            "log_likelihood_nats_stderr": errors[name],
            "bits_per_dimension": record["bits_per_dimension"].get(name),
            "reconstruction": record["reconstruction"][name]["measure"],
            "error": record["reconstruction"][name]["value"],
            "cells": record["reconstruction"][name]["cells"],
        }
        for name, nats in record["log_likelihood_per_column"].items()
    ]


def _latents(record: Mapping[str, Any]) -> Table:
    return [
        {
            "latent": k,
            "kl_nats": record["kl_per_latent"][k],
            "activity": activity,
            "active": activity > record["active_threshold"],
        }
        for k, activity in enumerate(record["activity"])
    ]


def _pareto_k(spread: Mapping[str, Any]) -> Table:
    ends = [None, *spread["edges"], None]
    ranges = zip(ends, ends[1:], spread["rows"], strict=False)
    return [{"from": low, "below": high, "rows": rows} for low, high, rows in ranges]


def _stability(record: Mapping[str, Any]) -> Table:
    found = record.get("stability")
    if found is None:
        return []
    return [
        {
            "predicted": name,
            "r2": found[name],
            "stderr": found[f"{name}_stderr"],
            "rows": found["test_rows"],
        }
        for name in ("first_from_second", "second_from_first")
    ]
