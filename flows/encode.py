"""Stage 5: the posterior of every row, published as Parquet beside its manifest.

Parts whose input did not change since an earlier publication by the same model and the same
encoding are that publication's files, by hard links: a grown data set costs its new parts.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow.parquet as pq

from data.features import FORMAT, VERSION, latest_of, write_latest
from data.publication import PartRecord, locked, read_manifest
from data.snapshot import Snapshot, open_snapshot
from data.working_copy import bring_published, place_of, present, prove, push
from flows import tracking
from flows.executor import engine
from flows.part_encoder import Parts, Work, encode_parts, loaded
from flows.row_encoder import cores
from flows.runs import Stage
from flows.settings import Home
from flows.spec import EncodingSection, ExecutionSection, Spec

HERE = ExecutionSection()


def encode_dataset(
    spec: Spec, home: Home, snapshot_path: str, registration: Mapping[str, Any]
) -> Stage:
    """Publish the features of every row of a snapshot under the version that encodes.

    `registration` is the record of the stage before: which version encodes, and the folder
    of its artifact. Encoding twice publishes once.

    Raises:
        TrackingError: the features are published, but the registry could not be told.
    """
    snapshot = open_snapshot(Path(snapshot_path))
    return publish_features(
        spec.encoding, home, snapshot, registration["encoder"], spec.execution
    )


def publish_features(
    encoding: EncodingSection,
    home: Home,
    snapshot: Snapshot,
    encoder: Mapping[str, Any],
    execution: ExecutionSection = HERE,
) -> Stage:
    """Publish a snapshot under one model version; see `encode_dataset`."""
    stage = publish(encoding, home, snapshot, encoder, execution)
    tracking.tag_version(
        home, encoder["name"], encoder["version"], "latents.publication", stage.value["id"]
    )
    return stage


def publish(
    encoding: EncodingSection,
    home: Home,
    snapshot: Snapshot,
    encoder: Mapping[str, Any],
    execution: ExecutionSection = HERE,
) -> Stage:
    """Publish a snapshot under one model version, and tell nobody but the readers.

    Raises:
        FormatError: a part's keys are not those of the snapshot's, row for row.
        flows.executor.ShardError: some parts failed on Ray; the others are written, and a
            second call encodes what failed.
    """
    started = perf_counter()
    work = Work.of(encoding, home, snapshot, encoder, execution.device)
    prove(home.features)
    bring_published(home.features / snapshot.name)
    reused = work.published
    with locked(work.staging.lock_path()):
        if not work.published:  # by a twin, while we waited
            _publish(work, execution)
        push(work.final)
    _point(home, snapshot.name, encoder["version"], work.id, champion=encoder["champion"])
    manifest = read_manifest(work.final, format=FORMAT, version=VERSION)
    value = {
        "id": work.id,
        "path": str(place_of(work.final)),
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
    return f"open_features({name!r}, home={home.address!r}{pinned}).to_pandas()"


def _publish(work: Work, execution: ExecutionSection) -> None:
    model, preprocessor = loaded(work.encoder["folder"], work.encoder["digest"], "cpu")
    encoder = work.encoder
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
    for number, record in parts.items():
        work.check(number, record)
    missing = [number for number in range(len(work.snapshot.parts)) if number not in parts]
    shards, workers = [Parts(tuple(missing))], cores()  # all cores work at one part
    if execution.engine != "local":
        shards, workers = [Parts((number,)) for number in missing], 1
    if missing:
        with engine(execution, "encode", device=execution.device) as mapped:
            for written in mapped(partial(encode_parts, work, footer, workers), shards):
                parts |= written
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
            folder, part = kept[content]
            present(folder / part.path, part.sha256)
            record = work.staging.adopt_from(folder, part, number)
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
