"""`latents monitor`: are new data still what the champion was trained on?

Two views. Column by column, against the champion's train rows (`data.drift`). And as the model
sees them: the bound of each row, and the mean of its posterior, against the test split. Rows the
model was trained on are left out of the second view, for it knows them better than others.

    drift.json     {"verdict", "drifted", "columns": [{"name", "distance", "drifted", ...}],
                    "model": {"elbo_shift_nats", "elbo_shift_nats_stderr", "elbo_ks", ...}}
"""

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.drift import ColumnDrift, column_drift, ks_and_wasserstein, ks_limit
from data.preprocessing import Preprocessor
from data.publication import canonical_json, replace_file
from data.snapshot import Snapshot, open_snapshot
from flows import handoff, tracking
from flows.events import DRIFTED, announce
from flows.handoff import Rows
from flows.ingest import ingest_dataset
from flows.lookup import NotFoundError, near
from flows.runs import RunFolder, read_record
from flows.settings import Home
from flows.spec import Spec, load_spec, override
from flows.tracking import CHAMPION, Registered
from flows.vault import fetched
from vae_engine.artifact import load_model
from vae_engine.binarization import binarized_for_evaluation
from vae_engine.model import VAE
from vae_engine.noise import keyed_noise
from vae_engine.objectives import elbo

NOISE_SEED = 0
ELBO_SAMPLES = 8
MODEL_ROWS = 4096  # of each side, as the model sees them

Floats = npt.NDArray[np.float64]


def monitor(spec: Spec, home: Home, source: str | None = None) -> dict[str, Any]:
    """Compare the spec's source as it is now, or `source`, with the champion's snapshot.

    Raises:
        NotFoundError: there is no champion, or its run is not in this home.
        ContractError: the new data break the contract, which is worse than drift.
    """
    champion = _champion(home, spec.model_name)
    folder = RunFolder(home.runs / champion.tags.get("latents.run_id", ""))
    if not folder.plan.exists():
        raise NotFoundError(
            f"{champion.name} version {champion.version} was not trained in this home, so its "
            f"train rows are not here to compare with"
        )
    if source is not None:
        there = load_spec(source).dataset.source  # as a spec would have it: absolute
        spec = override(spec, {"dataset.source": there})
    before = open_snapshot(Path(read_record(folder.plan)["snapshot"]))
    now = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
    columns = column_drift(before, now)
    seen = model_drift(fetched(home, champion), before, now)
    found = {
        "verdict": verdict(columns, seen),
        "drifted": any(column.drifted for column in columns) or seen["drifted"],
        "time_ms": int(time.time() * 1000),
        "dataset": spec.dataset.name,
        "model": {"name": champion.name, "version": champion.version, **seen},
        "reference": {"fingerprint": before.fingerprint, "rows": before.split_rows["train"]},
        "new": {"fingerprint": now.fingerprint, "rows": now.rows},
        "columns": [column.to_mapping() for column in columns],
    }
    _tell(home, folder, champion, found)
    return found


def _champion(home: Home, name: str) -> Registered:
    champions = [found for found in tracking.versions(home, name) if CHAMPION in found.aliases]
    if not champions:
        raise NotFoundError(
            f"{name!r} has no champion to hold new data against"
            f"{near(name, tracking.model_names(home))}"
        )
    return champions[0]


def model_drift(artifact: Path, before: Snapshot, now: Snapshot) -> dict[str, Any]:
    """How new rows look to a model, against those of the test split that it has never seen."""
    model = load_model(artifact)
    preprocessor = Preprocessor.from_json((artifact / "preprocessor.json").read_text("utf-8"))
    reference = handoff.load_rows(before, preprocessor, "test", limit=MODEL_ROWS)
    new = _unseen(before, now, preprocessor)
    (elbo_before, z_before), (elbo_now, z_now) = (_seen_by(model, r) for r in (reference, new))
    shift = elbo_now.mean() - elbo_before.mean()
    elbo_ks, _ = ks_and_wasserstein(elbo_before, elbo_now)
    rows = len(elbo_before), len(elbo_now)
    spread = z_before.std(0) + 1e-12
    moved = (z_now.mean(0) - z_before.mean(0)) / spread
    error = np.sqrt(1 / rows[0] + (z_now.std(0) / spread) ** 2 / rows[1])
    gaps = [
        ks_and_wasserstein(*pair)[0] or 0.0 for pair in zip(z_before.T, z_now.T, strict=True)
    ]
    limit = ks_limit(*rows)
    worst = int(np.argmax(gaps))
    elbo_drifted = (elbo_ks or 0.0) > limit
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


def verdict(columns: list[ColumnDrift], seen: dict[str, Any]) -> str:
    """One sentence: what has moved, and by how much."""
    moved = [column.name for column in columns if column.drifted]
    said = []
    if moved:
        shown = ", ".join(moved[:5]) + (", …" if len(moved) > 5 else "")
        said.append(f"{len(moved)} of {len(columns)} columns drifted ({shown})")
    if seen["elbo_drifted"]:
        change = f"{seen['elbo_shift_nats']:+.2f} ± {seen['elbo_shift_nats_stderr']:.2f}"
        said.append(f"the model's ELBO moved by {change} nats")
    if seen["latent_drifted"]:
        latent = seen["most_moved_latent"]
        change = (
            f"{seen['latent_shift'][latent]:+.2f} ± {seen['latent_shift_stderr'][latent]:.2f}"
        )
        said.append(f"latent {latent} moved by {change} standard deviations")
    return (
        "drift: " + "; ".join(said) if said else "no drift: columns and model are as they were"
    )


def _tell(home: Home, folder: RunFolder, champion: Registered, found: dict[str, Any]) -> None:
    """Keep the record, log its numbers on the champion's run, and tell Prefect if it is there."""
    replace_file(folder.record("drift"), canonical_json(found).encode())
    seen, columns = found["model"], found["columns"]
    numbers = {
        "drift/columns": sum(column["drifted"] for column in columns),
        "drift/largest_psi": max((column["distance"] for column in columns), default=0.0),
        "drift/elbo_shift_nats": seen["elbo_shift_nats"],
        "drift/elbo_shift_nats_stderr": seen["elbo_shift_nats_stderr"],
        "drift/elbo_ks": seen["elbo_ks"] or 0.0,
        "drift/largest_latent_ks": max(seen["latent_ks"]),
    }
    row = {"step": 0, "time_ms": found["time_ms"], **numbers}
    tracking.log_metrics(home, champion.tags["mlflow_run"], [row])
    if found["drifted"] and os.environ.get("PREFECT_API_URL"):
        payload = {"verdict": found["verdict"], "model_version": champion.version, **numbers}
        announce(DRIFTED, found["dataset"], payload)
