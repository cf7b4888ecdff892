"""What makes the parts of one publication, in this process or in any other.

It imports neither the tracker nor Prefect: a worker of a cluster starts in the time that torch
takes.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from data.features import FORMAT, VERSION
from data.part_rows import check_keys
from data.preprocessing import Preprocessor
from data.publication import PartRecord, Staging, canonical_json, digest_of, read_manifest
from data.snapshot import Snapshot
from flows import handoff
from flows.row_encoder import EncodedPart, RowEncoder
from flows.settings import Home
from flows.spec import EncodingSection
from vae_engine.artifact import load_model
from vae_engine.model import VAE


@dataclass(frozen=True)
class Work:
    """One publication in the making: what goes in, and where it goes."""

    encoding: EncodingSection
    snapshot: Snapshot
    encoder: Mapping[str, Any]
    plan: Mapping[str, Any]
    staging: Staging
    final: Path
    device: str

    @classmethod
    def of(
        cls,
        encoding: EncodingSection,
        home: Home,
        snapshot: Snapshot,
        encoder: Mapping[str, Any],
        device: str = "cpu",
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
            "numerics": {"torch": torch.__version__, "device": torch.device(device).type},
        }
        publication = digest_of(plan)[:16]
        folder = home.features / snapshot.name / f"model_version=v{encoder['version']}"
        staging = Staging(home.features, publication)
        final = folder / f"publication={publication}"
        return cls(encoding, snapshot, encoder, plan, staging, final, device)

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

    def check(self, number: int, record: PartRecord) -> None:
        """Hold a part of features against the part of the snapshot that it was made of.

        Raises:
            FormatError: its keys are not the snapshot's, row for row.
        """
        part = self.snapshot.parts[number]
        check_keys(part, self.staging.path / record.path, self.snapshot.key)

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


@dataclass(frozen=True)
class Parts:
    """Some parts of a snapshot, to be encoded by one process: a shard."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return f"part{'s'[: len(self.numbers) != 1]} {', '.join(map(str, self.numbers))}"


def encode_parts(
    work: Work, footer: Mapping[str, str], workers: int, shard: Parts
) -> dict[int, PartRecord]:
    """Encode some parts and write each under its own name, once; the same in any process."""
    folder, digest, version = (work.encoder[key] for key in ("folder", "digest", "version"))
    model, preprocessor = loaded(folder, digest, work.device)
    contract, wanted = work.snapshot.contract, work.encoding
    rows = RowEncoder(model, preprocessor, contract, wanted, version, work.device)
    encoded = rows.parts(work.snapshot, shard.numbers, workers=workers)
    return _written(work, encoded, footer)


@lru_cache(maxsize=1)
def loaded(folder: str, digest: str, device: str) -> tuple[VAE, Preprocessor]:
    """The model, on a device, and the map to its inputs, verified once in each process."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions, too, as precise as on a CPU
    there = handoff.device(device, "execution.device")
    model = load_model(Path(folder), digest=digest).to(there)
    said = (Path(folder) / "preprocessor.json").read_text("utf-8")
    return model, Preprocessor.from_json(said)


def _written(
    work: Work, parts: Iterator[EncodedPart], footer: Mapping[str, str]
) -> dict[int, PartRecord]:
    """Write and check each part while the next is computed; at most one waits."""

    def write(part: EncodedPart) -> PartRecord:
        said = {**footer, "counts": canonical_json(dict(part.counts))}
        record = work.staging.write_part(part.number, part.table, said)
        work.check(part.number, record)
        return record

    records: dict[int, PartRecord] = {}
    with ThreadPoolExecutor(1) as writer:
        last: tuple[int, Future[PartRecord]] | None = None
        for part in parts:
            if last is not None:
                records[last[0]] = last[1].result()
            last = part.number, writer.submit(write, part)
        if last is not None:
            records[last[0]] = last[1].result()
    return records
