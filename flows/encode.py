"""Stage 5: the posterior of every row, published as Parquet beside its manifest."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from data.features import (
    FORMAT,
    VERSION,
    features_table,
    latest_of,
    write_latest,
)
from data.preprocessing import Preprocessor
from data.publication import PartRecord, Staging, digest_of, locked, read_manifest
from data.snapshot import Part, Snapshot, open_snapshot
from flows import handoff, tracking
from flows.handoff import Rows
from flows.progress import advance
from flows.runs import Stage
from flows.settings import Home
from flows.spec import EncodingSection, Spec
from vae_engine.artifact import load_model
from vae_engine.binarization import binarized_for_evaluation
from vae_engine.encoding import encode
from vae_engine.model import VAE
from vae_engine.noise import keyed_noise
from vae_engine.objectives import elbo

NOISE_SEED = 0  # of samples and bounds on request: part of the publication's identity by format
ELBO_SAMPLES = 8


def encode_dataset(
    spec: Spec, home: Home, snapshot_path: str, registration: Mapping[str, Any]
) -> Stage:
    """Publish the features of every row of a snapshot under the champion.

    `registration` is the record of the stage before: which version encodes, and the folder
    of its artifact. Encoding twice publishes once.

    Raises:
        TrackingError: the features are published, but the registry could not be told.
    """
    return publish_features(
        spec.encoding, home, open_snapshot(Path(snapshot_path)), registration["encoder"]
    )


def publish_features(
    encoding: EncodingSection, home: Home, snapshot: Snapshot, encoder: Mapping[str, Any]
) -> Stage:
    """Publish a snapshot under one model version; see `encode_dataset`."""
    started = perf_counter()
    plan = {
        "dataset": snapshot.name,
        "fingerprint": snapshot.fingerprint,
        "model_digest": encoder["digest"],
        "encoding": encoding.model_dump(mode="json"),
        "format_version": VERSION,
        # What the numbers depend on beside the model: results differ in the last bits.
        "numerics": {"torch": torch.__version__, "device": "cpu"},
    }
    publication = digest_of(plan)[:16]
    final = (
        home.features
        / snapshot.name
        / f"model_version=v{encoder['version']}"
        / f"publication={publication}"
    )
    reused = (final / "manifest.json").exists()
    if not reused:
        _publish(encoding, snapshot, encoder, plan, Staging(home.features, publication), final)
    _point(home, snapshot.name, encoder["version"], publication, champion=encoder["champion"])
    tracking.tag_version(
        home, encoder["name"], encoder["version"], "latents.publication", publication
    )
    manifest = read_manifest(final, format=FORMAT, version=VERSION)
    value = {
        "id": publication,
        "path": str(final),
        "rows": manifest["rows"],
        "columns": manifest["columns"],
        "model_version": encoder["version"],
        "read": f"open_features({snapshot.name!r}, home={str(home.root)!r}).to_pandas()",
    }
    return Stage("encode", value, reused=reused, elapsed_s=perf_counter() - started)


def _publish(
    encoding: EncodingSection,
    snapshot: Snapshot,
    encoder: Mapping[str, Any],
    plan: Mapping[str, Any],
    staging: Staging,
    final: Path,
) -> None:
    folder = Path(encoder["folder"])
    model = load_model(folder, digest=encoder["digest"])
    preprocessor = Preprocessor.from_json((folder / "preprocessor.json").read_text("utf-8"))
    footer = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "dataset": snapshot.name,
        "fingerprint": snapshot.fingerprint,
        "model": encoder["name"],
        "model_version": str(encoder["version"]),
        "model_digest": encoder["digest"],
        "preprocessor_digest": preprocessor.digest,
    }
    parts: list[PartRecord] = []
    counts: Counter[str] = Counter()
    columns: list[str] = []
    with locked(staging.lock_path()):
        for number, part in enumerate(snapshot.parts):
            table, seen = _features(
                encoding, snapshot, part, preprocessor, model, encoder["version"]
            )
            counts.update(seen)
            columns = table.column_names
            parts.append(staging.write_part(number, table, footer))
            advance("encode", number + 1, len(snapshot.parts), f"{part.rows:,} rows")
        header = {
            **footer,
            "format_version": VERSION,
            "model": {
                "name": encoder["name"],
                "version": encoder["version"],
                "digest": encoder["digest"],
            },
            "plan": plan,
            "columns": columns,
            "latents": model.latents,
            "counts": dict(sorted(counts.items())),
        }
        staging.commit(final, parts, header)


def _features(
    wanted: EncodingSection,
    snapshot: Snapshot,
    part: Part,
    preprocessor: Preprocessor,
    model: VAE,
    version: int,
) -> tuple[pa.Table, Mapping[str, int]]:
    """The features of one part, row for row, and what the preprocessor had to count."""
    table = snapshot.part_table(part)
    encoded = preprocessor.transform(table)
    x, keys = torch.from_numpy(encoded.x), handoff.row_keys(table[snapshot.key])
    mean, stddev = encode(model, x, batch_rows=wanted.batch_rows)
    if not (mean.isfinite().all() and stddev.isfinite().all()):
        raise FloatingPointError(
            f"{part.path.name}: the encoder gave values that are not finite"
        )
    samples = _draws(model, x, keys, wanted.samples) if "samples" in wanted.columns else None
    bound = _bound(model, x, keys) if "elbo" in wanted.columns else None
    features = features_table(
        table,
        snapshot.contract,
        mean.numpy(),
        stddev.numpy(),
        layout=wanted.layout,
        model_version=version,
        samples=samples,
        elbo_nats=bound,
    )
    return features, encoded.counts


@torch.inference_mode()
def _draws(model: VAE, x: Tensor, keys: Tensor, samples: int) -> npt.NDArray[np.float32]:
    """Draws from q(z|x), samples × rows × latents: a function of the row's key alone."""
    parts = []
    for rows, row_keys in Rows(x, keys).batches():
        noise = keyed_noise(NOISE_SEED, row_keys, 0, samples, model.latents)
        parts.append(model.posterior(rows).reparameterize(noise))
    return torch.cat(parts, 1).numpy()


@torch.inference_mode()
def _bound(model: VAE, x: Tensor, keys: Tensor) -> npt.NDArray[np.float32]:
    """The ELBO of each row, in nats."""
    parts = []
    for rows, row_keys in Rows(x, keys).batches():
        seen = binarized_for_evaluation(model.config, rows, row_keys, NOISE_SEED)
        noise = keyed_noise(NOISE_SEED, row_keys, 0, ELBO_SAMPLES, model.latents)
        parts.append(elbo(model, seen, noise))
    return torch.cat(parts).numpy()


def _point(home: Home, dataset: str, version: int, publication: str, *, champion: bool) -> None:
    """Let `latest.json` name this publication, unless it does already."""
    latest = latest_of(home.features, dataset)
    current = {"model_version": version, "publication": publication}
    if latest["versions"].get(str(version)) != publication or (
        champion and latest["champion"] != current
    ):
        write_latest(
            home.features, dataset, version=version, publication=publication, champion=champion
        )
