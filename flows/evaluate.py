"""Stage 3: the bound and the marginal likelihood on the test split, and the features as features."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.preprocessing import Preprocessor
from data.publication import locked
from data.snapshot import Snapshot, open_snapshot
from flows import handoff
from flows.handoff import Rows
from flows.probes import probe_features
from flows.progress import advance
from flows.runs import RunFolder, Stage, once, read_record
from flows.spec import Spec
from vae_engine.artifact import load_model
from vae_engine.baselines import factor_analysis, independent_columns
from vae_engine.encoding import encode
from vae_engine.evaluation import ElboReport, Total, evaluate
from vae_engine.marginal import MarginalEstimate, estimate_log_marginal
from vae_engine.model import VAE

ELBO_SAMPLES = 8  # draws of z per test row; their noise is below that between rows
PROBE_ROWS = 20_000  # of the train split
TRUSTED_K = (
    0.7  # Vehtari et al. (2024): above it an importance-sampling estimate is not trusted
)
CHUNK_ROWS = 100  # between two progress reports


def evaluate_model(spec: Spec, run_path: str) -> Stage:
    """Measure a run's model on the test split, or find it measured with these settings."""
    folder = RunFolder(Path(run_path))
    with locked(folder.path / ".lock"):
        return once("evaluate", folder.evaluation(spec), lambda: _evaluate(spec, folder))


def _evaluate(spec: Spec, folder: RunFolder) -> dict[str, Any]:
    plan = read_record(folder.plan)
    snapshot = open_snapshot(Path(plan["snapshot"]))
    model = load_model(folder.model)
    preprocessor = Preprocessor.from_json(folder.preprocessor.read_text("utf-8"))
    train = handoff.load_rows(snapshot, preprocessor, "train")
    test = handoff.load_rows(snapshot, preprocessor, "test")
    sample = test.first(spec.evaluation.rows)
    seed = spec.evaluation.seed

    report = evaluate(model, test.batches(), samples=ELBO_SAMPLES, seed=seed)
    marginal = _log_marginal(spec, model, sample)
    fitted = train.first(PROBE_ROWS)
    independent = independent_columns(model.config, fitted.batch, sample.batch, seed=seed)
    factors = factor_analysis(
        model.config, fitted.batch, sample.batch, latents=model.latents, seed=seed
    )
    value = {
        "time_ms": int(time.time() * 1000),
        "split": "test",
        "rows": len(test.x),
        "latents": model.latents,
        "elbo": _estimate(report.elbo),
        "distortion": _estimate(report.distortion),
        "rate": _estimate(report.rate),
        # None where the KL is not a sum over latents: a flow, a mixture.
        "kl_per_latent": [kl if math.isfinite(kl) else None for kl in report.kl_per_latent],
        "activity": list(report.activity),
        "active_units": report.active_units,
        "active_threshold": report.active_threshold,
        "log_likelihood_per_column": report.log_likelihood_per_column,
        "log_marginal": _estimate(Total.of(marginal.log_marginal_nats))
        | {"importance_samples": spec.evaluation.importance_samples},
        "untrusted_fraction": float((marginal.pareto_k > TRUSTED_K).double().mean()),
        "independent": _estimate(Total.of(independent)),
        "factor_analysis": None if factors is None else _estimate(Total.of(factors)),
        "log_marginal_per_row": marginal.log_marginal_nats.tolist(),
        "independent_per_row": independent.tolist(),
        "probe": _probe(snapshot, model, train, test),
    }
    return value | {"metrics": _metrics(value, report)}


def _estimate(total: Total) -> dict[str, Any]:
    return {"nats": total.mean, "stderr": total.stderr, "rows": total.rows, "split": "test"}


def _log_marginal(spec: Spec, model: VAE, sample: Rows) -> MarginalEstimate:
    parts = []
    for done, (x, keys) in enumerate(sample.batches(CHUNK_ROWS)):
        parts.append(
            estimate_log_marginal(
                model,
                x,
                keys,
                samples=spec.evaluation.importance_samples,
                seed=spec.evaluation.seed,
            )
        )
        advance("evaluate", done * CHUNK_ROWS + len(x), len(sample.x), "log p(x) of test rows")
    return MarginalEstimate(*(torch.cat(field) for field in zip(*parts, strict=True)))


def log_marginal_of(spec: Spec, folder: RunFolder, artifact: Path, rows: int) -> list[float]:
    """log p(x) of the run's test rows under another model: the champion, for the gate."""
    snapshot = open_snapshot(Path(read_record(folder.plan)["snapshot"]))
    preprocessor = Preprocessor.from_json((artifact / "preprocessor.json").read_text("utf-8"))
    sample = handoff.load_rows(snapshot, preprocessor, "test", limit=rows)
    return _log_marginal(spec, load_model(artifact), sample).log_marginal_nats.tolist()


def _probe(snapshot: Snapshot, model: VAE, train: Rows, test: Rows) -> list[dict[str, Any]]:
    """How well the label is read from the latents, from PCA and from the model's own inputs."""
    label = snapshot.contract.label
    if label is None:
        return []
    advance("evaluate", 0, 1, f"probing for {label!r}")
    fitted, held_out = train.first(PROBE_ROWS), test
    features = [_features(model, rows) for rows in (fitted, held_out)]
    labels = [_labels(snapshot, split) for split in ("train", "test")]
    probes = probe_features(
        latents=(features[0][0], features[1][0]),
        inputs=(features[0][1], features[1][1]),
        labels=(
            np.array([labels[0][key] for key in fitted.row_keys.tolist()]),
            np.array([labels[1][key] for key in held_out.row_keys.tolist()]),
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


def _metrics(value: Mapping[str, Any], report: ElboReport) -> dict[str, float]:
    """The numbers that MLflow shows, each estimate with its standard error."""
    estimates = ("elbo", "distortion", "rate", "log_marginal", "independent")
    metrics = {f"test/{name}_nats": value[name]["nats"] for name in estimates}
    metrics |= {f"test/{name}_nats_stderr": value[name]["stderr"] for name in estimates}
    if value["factor_analysis"] is not None:
        metrics["test/factor_analysis_nats"] = value["factor_analysis"]["nats"]
        metrics["test/factor_analysis_nats_stderr"] = value["factor_analysis"]["stderr"]
    metrics |= {
        "test/active_units": report.active_units,
        "test/untrusted_fraction": value["untrusted_fraction"],
    }
    probes: Sequence[Mapping[str, Any]] = value["probe"]
    for probe in probes:
        for features in ("latents", "pca", "inputs"):
            metrics[f"probe/{probe['name']}_{features}"] = probe[features]
            metrics[f"probe/{probe['name']}_{features}_stderr"] = probe[f"{features}_stderr"]
    return metrics
