"""Stage 5: the posterior of every row, published as Parquet beside its manifest.

Parts whose input did not change since an earlier publication by the same model and the same
encoding are that publication's files, by hard links: a grown data set costs its new parts.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow.parquet as pq
import torch

from data.features import FORMAT, VERSION, latest_of, write_latest
from data.preprocessing import Preprocessor
from data.publication import (
    PartRecord,
    Staging,
    canonical_json,
    digest_of,
    locked,
    read_manifest,
)
from data.snapshot import Snapshot, open_snapshot
from flows import tracking
from flows.row_encoder import EncodedPart, RowEncoder
from flows.runs import Stage
from flows.settings import Home
from flows.spec import EncodingSection, Spec
from vae_engine.artifact import load_model


def encode_dataset(
    spec: Spec, home: Home, snapshot_path: str, registration: Mapping[str, Any]
) -> Stage:
    """Publish the features of every row of a snapshot under the version that encodes.

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
    stage = publish(encoding, home, snapshot, encoder)
    tracking.tag_version(
        home, encoder["name"], encoder["version"], "latents.publication", stage.value["id"]
    )
    return stage


def publish(
    encoding: EncodingSection, home: Home, snapshot: Snapshot, encoder: Mapping[str, Any]
) -> Stage:
    """Publish a snapshot under one model version, and tell nobody but the readers."""
    started = perf_counter()
    work = Work.of(encoding, home, snapshot, encoder)
    reused = work.published
    if not reused:
        with locked(work.staging.lock_path()):
            if not work.published:  # by a twin, while we waited
                _publish(encoding, work)
    _point(home, snapshot.name, encoder["version"], work.id, champion=encoder["champion"])
    manifest = read_manifest(work.final, format=FORMAT, version=VERSION)
    value = {
        "id": work.id,
        "path": str(work.final),
        "rows": manifest["rows"],
        "columns": manifest["columns"],
        "parts": len(manifest["parts"]),
        "adopted_parts": manifest["adopted_parts"],
        "model_version": encoder["version"],
        "read": _how_to_read(home, snapshot.name, encoder),
    }
    return Stage("encode", value, reused=reused, elapsed_s=perf_counter() - started)


def _how_to_read(home: Home, name: str, encoder: Mapping[str, Any]) -> str:
    pinned = "" if encoder["champion"] else f", model_version={encoder['version']}"
    return f"open_features({name!r}, home={str(home.root)!r}{pinned}).to_pandas()"


@dataclass(frozen=True)
class Work:
    """One publication in the making: what goes in, and where it goes."""

    snapshot: Snapshot
    encoder: Mapping[str, Any]
    plan: Mapping[str, Any]
    staging: Staging
    final: Path

    @classmethod
    def of(
        cls,
        encoding: EncodingSection,
        home: Home,
        snapshot: Snapshot,
        encoder: Mapping[str, Any],
    ) -> "Work":
        """Plan a publication, and name it by its plan."""
        plan = {
            "dataset": snapshot.name,
            "fingerprint": snapshot.fingerprint,
            "contract": snapshot.contract.digest,
            "model_digest": encoder["digest"],
            "encoding": encoding.model_dump(mode="json"),
            "format_version": VERSION,
            # What the numbers depend on beside the model: results differ in the last bits.
            "numerics": {"torch": torch.__version__, "device": "cpu"},
        }
        publication = digest_of(plan)[:16]
        folder = home.features / snapshot.name / f"model_version=v{encoder['version']}"
        staging = Staging(home.features, publication)
        return cls(snapshot, encoder, plan, staging, folder / f"publication={publication}")

    @property
    def id(self) -> str:
        """The publication's name."""
        return self.staging.id

    @property
    def published(self) -> bool:
        """Whether it is there, whole."""
        return (self.final / "manifest.json").exists()

    @property
    def inputs(self) -> list[str]:
        """The digest of the rows of each part of the snapshot."""
        return [part["content"] for part in self.snapshot.manifest["parts"]]

    def kept(self) -> dict[str, tuple[Path, PartRecord]]:
        """Parts that other snapshots led to by the same plan, by the digest of their input."""
        found = {}
        for path in sorted(self.final.parent.glob("publication=*/manifest.json")):
            manifest = read_manifest(path.parent, format=FORMAT, version=VERSION)
            if _but_for_rows(manifest["plan"]) == _but_for_rows(self.plan):
                records = [PartRecord(**part) for part in manifest["parts"]]
                for content, record in zip(manifest["inputs"], records, strict=True):
                    found[content] = (path.parent, record)
        return found


def _but_for_rows(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the features of a row depend on beside the row."""
    return {key: value for key, value in plan.items() if key != "fingerprint"}


def _publish(encoding: EncodingSection, work: Work) -> None:
    folder, encoder = Path(work.encoder["folder"]), work.encoder
    model = load_model(folder, digest=encoder["digest"])
    preprocessor = Preprocessor.from_json((folder / "preprocessor.json").read_text("utf-8"))
    footer = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "dataset": work.snapshot.name,
        "fingerprint": work.snapshot.fingerprint,
        "model": encoder["name"],
        "model_version": str(encoder["version"]),
        "model_digest": encoder["digest"],
        "preprocessor_digest": preprocessor.digest,
    }
    adopted = dict(_adopted(work))
    parts = adopted | dict(_there(work, footer, without=adopted))
    missing = [number for number in range(len(work.snapshot.parts)) if number not in parts]
    rows = RowEncoder(model, preprocessor, work.snapshot.contract, encoding, encoder["version"])
    parts |= _written(work.staging, rows.parts(work.snapshot, missing), footer)
    records = [parts[number] for number in sorted(parts)]
    metadata = [pq.read_schema(work.staging.path / record.path) for record in records]
    counts: Counter[str] = Counter()
    for schema in metadata:
        counts.update(json.loads(schema.metadata[b"counts"]))
    header = {
        **footer,
        "format_version": VERSION,
        "model": {
            "name": encoder["name"],
            "version": encoder["version"],
            "digest": encoder["digest"],
        },
        "plan": work.plan,
        "inputs": work.inputs,
        "adopted_parts": len(adopted),
        "columns": metadata[0].names,
        "latents": model.latents,
        "counts": dict(sorted(counts.items())),
    }
    work.staging.commit(work.final, records, header)


def _adopted(work: Work) -> Iterator[tuple[int, PartRecord]]:
    """Parts that an earlier publication has, linked into this one."""
    kept = work.kept()
    for number, content in enumerate(work.inputs):
        if content in kept:
            record = work.staging.adopt_from(*kept[content], number)
            if record is not None:
                yield number, record


def _there(
    work: Work, footer: Mapping[str, str], *, without: Mapping[int, PartRecord]
) -> Iterator[tuple[int, PartRecord]]:
    """Parts that an attempt before this one wrote, whole."""
    for number in range(len(work.snapshot.parts)):
        if number not in without:
            record = work.staging.adopt(number, footer)
            if record is not None:
                yield number, record


def _written(
    staging: Staging, parts: Iterator[EncodedPart], footer: Mapping[str, str]
) -> dict[int, PartRecord]:
    """Write each part while the next is computed; at most one waits."""
    records: dict[int, PartRecord] = {}
    with ThreadPoolExecutor(1) as writer:
        last: tuple[int, Future[PartRecord]] | None = None
        for part in parts:
            if last is not None:
                records[last[0]] = last[1].result()
            said = {**footer, "counts": canonical_json(dict(part.counts))}
            last = part.number, writer.submit(staging.write_part, part.number, part.table, said)
        if last is not None:
            records[last[0]] = last[1].result()
    return records


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
