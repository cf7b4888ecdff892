"""New rows as a model sees them: the bound of each, and the mean of its posterior.

Held against the test split. Rows that the model was fitted to or chosen by are left out, for it
knows them better than others. What is compared are distributions, by the largest gap between
two distribution functions (Kolmogorov-Smirnov): drift is a gap that is both large and more than
chance gives once in a thousand times. Shifts are stated with their standard errors.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.preprocessing import Preprocessor
from data.snapshot import Snapshot
from flows import handoff
from flows.handoff import Rows
from vae_engine.artifact import load_model
from vae_engine.binarization import binarized_for_evaluation
from vae_engine.model import VAE
from vae_engine.noise import keyed_noise
from vae_engine.objectives import elbo

NOISE_SEED = 0
ELBO_SAMPLES = 8
MODEL_ROWS = 4096  # of each side
LARGE_GAP = 0.2
CHANCE_KS = 1.95  # the 0.999 quantile of Kolmogorov's law

Floats = npt.NDArray[np.float64]


def model_drift(artifact: Path, before: Snapshot, now: Snapshot) -> dict[str, Any]:
    """How new rows look to a model, against those of the test split that it has never seen."""
    model = load_model(artifact)
    preprocessor = Preprocessor.from_json((artifact / "preprocessor.json").read_text("utf-8"))
    reference = handoff.load_rows(before, preprocessor, "test", limit=MODEL_ROWS)
    new = _unseen(before, now, preprocessor)
    (elbo_before, z_before), (elbo_now, z_now) = (_seen_by(model, r) for r in (reference, new))
    shift = elbo_now.mean() - elbo_before.mean()
    elbo_ks = gap(elbo_before, elbo_now)
    rows = len(elbo_before), len(elbo_now)
    spread = z_before.std(0) + 1e-12
    moved = (z_now.mean(0) - z_before.mean(0)) / spread
    error = np.sqrt(1 / rows[0] + (z_now.std(0) / spread) ** 2 / rows[1])
    gaps = [gap(*pair) for pair in zip(z_before.T, z_now.T, strict=True)]
    limit = max(LARGE_GAP, CHANCE_KS * math.sqrt(1 / rows[0] + 1 / rows[1]))
    worst = int(np.argmax(gaps))
    elbo_drifted = elbo_ks > limit
    latent_drifted = gaps[worst] > limit * (
        1 + 0.1 * math.log(len(gaps))
    )  # the largest of many
    return {
        "rows": list(rows),
        "elbo_nats": [float(elbo_before.mean()), float(elbo_now.mean())],
        "elbo_shift_nats": float(shift),
        "elbo_shift_nats_stderr": float(
            np.sqrt(sum(e.var(ddof=1) / len(e) for e in (elbo_before, elbo_now)))
        ),
        "elbo_ks": elbo_ks,
        "elbo_drifted": elbo_drifted,
        "latent_shift": moved.tolist(),  # of the mean, in stddevs of the reference
        "latent_shift_stderr": error.tolist(),
        "latent_ks": gaps,
        "latent_drifted": latent_drifted,
        "most_moved_latent": worst,
        "drifted": elbo_drifted or latent_drifted,
    }


def _unseen(before: Snapshot, now: Snapshot, preprocessor: Preprocessor) -> Rows:
    """New rows by which the model was neither fitted nor chosen."""
    known = np.concatenate([_keys(before, split) for split in ("train", "valid")])
    parts = []
    for split in ("train", "valid", "test"):
        rows = handoff.load_rows(now, preprocessor, split, limit=4 * MODEL_ROWS)
        fresh = torch.from_numpy(~np.isin(rows.row_keys.numpy(), known))
        parts.append(Rows(rows.x[fresh], rows.row_keys[fresh]))
    return Rows(*(torch.cat(f) for f in zip(*parts, strict=True))).first(MODEL_ROWS)


def _keys(snapshot: Snapshot, split: str) -> npt.NDArray[np.int64]:
    tables = (
        snapshot.part_table(p, split=split, columns=[snapshot.key]) for p in snapshot.parts
    )
    return np.concatenate([handoff.row_keys(table[snapshot.key]).numpy() for table in tables])


@torch.inference_mode()
def _seen_by(model: VAE, rows: Rows) -> tuple[Floats, Floats]:
    """The bound of each row in nats, and the mean of its posterior."""
    bounds, means = [], []
    for x, row_keys in rows.batches():
        seen = binarized_for_evaluation(model.config, x, row_keys, NOISE_SEED)
        noise = keyed_noise(NOISE_SEED, row_keys, 0, ELBO_SAMPLES, model.latents)
        bounds.append(elbo(model, seen, noise).double())
        means.append(model.posterior(x).mean.double())
    return torch.cat(bounds).numpy(), torch.cat(means).numpy()


def gap(before: Floats, now: Floats) -> float:
    """The largest gap between two distribution functions."""
    every = np.concatenate([before, now])
    reached = [
        np.searchsorted(np.sort(values), every, side="right") / len(values)
        for values in (before, now)
    ]
    return float(np.abs(reached[0] - reached[1]).max())
