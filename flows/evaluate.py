"""Stage 3: the bound and the marginal likelihood on the test split, and the features as features."""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.preprocessing import Preprocessor
from data.publication import locked
from data.snapshot import Snapshot, open_snapshot
from flows import handoff, measurements
from flows.estimates import as_mapping, log_marginal, other_estimates, per_row
from flows.handoff import Rows
from flows.probes import probe_features
from flows.progress import advance
from flows.reconstruction import reconstruction_errors
from flows.retraining import features_retrained
from flows.runs import RunFolder, Stage, once
from flows.spec import Spec
from vae_engine.aggregate import mutual_information
from vae_engine.artifact import load_model
from vae_engine.baselines import factor_analysis, independent_columns
from vae_engine.divergence import DivergedError
from vae_engine.encoding import encode
from vae_engine.evaluation import Total, evaluate
from vae_engine.model import VAE

ELBO_SAMPLES = 8  # draws of z per test row; their noise is below that between rows
FITTED_ROWS = 20_000  # of the train split: probes and baselines are fitted to them
TEST_ROWS = 200_000  # of the test split: the error of a mean over them is in the third digit
REFERENCE_ROWS = 2_000  # whose aggregated posterior the mutual information is taken against


def evaluate_model(spec: Spec, run_path: str) -> Stage:
    """Measure a run's model on the test split, or find it measured with these settings."""
    folder = RunFolder(Path(run_path))
    with locked(folder.path / ".lock"):
        return once("evaluate", folder.evaluation(spec), lambda: _evaluate(spec, folder))


def _evaluate(spec: Spec, folder: RunFolder) -> dict[str, Any]:
    snapshot = open_snapshot(folder.snapshot)
    model = load_model(folder.model)
    preprocessor = Preprocessor.from_json(folder.preprocessor.read_text("utf-8"))
    train = handoff.load_rows(snapshot, preprocessor, "train", limit=FITTED_ROWS)
    test = handoff.load_rows(snapshot, preprocessor, "test", limit=TEST_ROWS)
    settings = spec.evaluation
    sample = test.first(settings.rows)

    device = handoff.device(spec.execution.device, "execution.device")
    there = copy.deepcopy(model).to(device)
    report = evaluate(there, test.batches(), samples=ELBO_SAMPLES, seed=settings.seed)
    if not math.isfinite(report.elbo.mean):
        raise DivergedError(
            f"the ELBO of the {report.elbo.rows:,} test rows is {report.elbo.mean}, "
            f"{report.elbo.impossible:,} of them impossible: such a model is not registered. "
            f"Train it again with a lower learning rate, or look for cells far from all others"
        )
    marginal_per_row, marginal = log_marginal(settings, there, sample.on(device))
    independent = independent_columns(
        model.config, train.batch, sample.batch, seed=settings.seed
    )
    factors = factor_analysis(
        model.config, train.batch, sample.batch, latents=model.latents, seed=settings.seed
    )
    known = mutual_information(model, *sample.first(REFERENCE_ROWS).batch, seed=settings.seed)
    value = {
        "time_ms": int(time.time() * 1000),
        "split": "test",
        "rows": len(test.x),
        "latents": model.latents,
        "elbo": as_mapping(report.elbo),
        "distortion": as_mapping(report.distortion),
        "rate": as_mapping(report.rate),
        "mutual_information": as_mapping(known.least),
        "mutual_information_most": as_mapping(known.most),
        # None where the KL is not a sum over latents: a flow, a mixture.
        "kl_per_latent": [kl if math.isfinite(kl) else None for kl in report.kl_per_latent],
        "activity": list(report.activity),
        "active_units": report.active_units,
        "active_threshold": report.active_threshold,
        "log_likelihood_per_column": {
            name: total.mean for name, total in report.log_likelihood_per_column.items()
        },
        "log_likelihood_per_column_stderr": {
            name: total.stderr for name, total in report.log_likelihood_per_column.items()
        },
        "bits_per_dimension": {
            column.name: -report.log_likelihood_per_column[column.name].mean
            / (column.width * math.log(2))
            for column in model.config.columns
            if column.image is not None
        },
        "reconstruction": reconstruction_errors(model, test),
        "log_marginal": marginal,
        "untrusted_fraction": marginal["untrusted_fraction"],
        **other_estimates(settings, model, sample),
        "independent": as_mapping(Total.of(independent)),
        "factor_analysis": None if factors is None else as_mapping(Total.of(factors)),
        "log_marginal_per_row": per_row(marginal_per_row),
        "independent_per_row": per_row(independent),
        "probe": _probe(snapshot, model, train, test),
    }
    if settings.stability:
        value["stability"] = features_retrained(spec, folder, model, train, test)
    return value | {"metrics": measurements.metrics(value)}


def log_marginal_of(spec: Spec, folder: RunFolder, artifact: Path, rows: int) -> list[float]:
    """log p(x) of the run's test rows under another model: the champion, for the gate."""
    snapshot = open_snapshot(folder.snapshot)
    preprocessor = Preprocessor.from_json((artifact / "preprocessor.json").read_text("utf-8"))
    sample = handoff.load_rows(snapshot, preprocessor, "test", limit=rows)
    device = handoff.device(spec.execution.device, "execution.device")
    model = load_model(artifact).to(device)
    return list(log_marginal(spec.evaluation, model, sample.on(device))[0].tolist())


def _probe(snapshot: Snapshot, model: VAE, train: Rows, test: Rows) -> list[dict[str, Any]]:
    """How well the label is read from the latents, from PCA and from the model's own inputs."""
    label = snapshot.contract.label
    if label is None:
        return []
    advance("evaluate", 0, 1, f"probing for {label!r}")
    features = [_features(model, rows) for rows in (train, test)]
    labels = [_labels(snapshot, split) for split in ("train", "test")]
    probes = probe_features(
        latents=(features[0][0], features[1][0]),
        inputs=(features[0][1], features[1][1]),
        labels=(
            np.array([labels[0][key] for key in train.row_keys.tolist()]),
            np.array([labels[1][key] for key in test.row_keys.tolist()]),
        ),
    )
    return [probe.to_mapping() for probe in probes]


def _features(model: VAE, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means, and what the encoder sees: the raw columns on one scale."""
    mean, _ = encode(model, rows.x)
    with torch.inference_mode():
        inputs = torch.cat([model.inputs(x, torch.float32) for x, _ in rows.batches()])
    return mean.numpy(), inputs.numpy()


def _labels(snapshot: Snapshot, split: str) -> Mapping[int, Any]:
    """The label of each row key of a split."""
    found: dict[int, Any] = {}
    for part in snapshot.parts:
        table = snapshot.part_table(part, split=split)
        keys = handoff.row_keys(table[snapshot.key]).tolist()
        found.update(zip(keys, table[snapshot.contract.label].to_pylist(), strict=True))
    return found
