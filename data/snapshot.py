"""An ingested data set: immutable, named by what is in it, ready to train on.

    <root>/<name>/<fingerprint>/   manifest.json  contract.json  profile.json  data/part-*.parquet
    <root>/<name>/.index/<recipe>.json

The parts hold the contract's columns as it stores them (ignored ones stay behind), `row_id`
where the source has no key, and `split`. The fingerprint is of typed content, contract and
split, not of Parquet bytes: the same table from CSV and from Parquet is the same snapshot.
The index remembers which source and settings gave which snapshot, so that asking again costs
one hash of the source.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.checking import Checker, ContractError
from data.contract import ROW_ID, Contract, SpecError
from data.formats import SourceError
from data.inference import VERSION as RULES
from data.inference import infer_contract
from data.profile import Profile
from data.publication import (
    FormatError,
    PartRecord,
    Staging,
    digest_of,
    locked,
    put_once,
    read_manifest,
    safe_name,
    verify_parts,
)
from data.sources import Source, open_source, rebatched
from data.splits import SPLITS, hash_keys, split_of
from data.survey import survey

FORMAT, VERSION = "latent-features/snapshot", 1

PART_ROWS = 131_072
PART_ENTRIES = 2**27  # as float32 input of a model, half a gigabyte


@dataclass(frozen=True)
class Part:
    """One Parquet file of a snapshot."""

    path: Path
    rows: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """An ingested data set on disk."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    reused: bool = False  # it was there when it was asked for

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        """What identifies content, contract and split."""
        return str(self.manifest["fingerprint"])

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.manifest["rows"])

    @property
    def split_rows(self) -> dict[str, int]:
        """The number of rows of each split."""
        return dict(self.manifest["split_rows"])

    @property
    def key(self) -> str:
        """The name of the column that identifies a row."""
        return self.contract.key or ROW_ID

    @cached_property
    def contract(self) -> Contract:
        """What the source had to look like."""
        return Contract.from_json((self.path / "contract.json").read_text("utf-8"))

    @cached_property
    def profile(self) -> Profile:
        """What the source's columns look like in numbers."""
        return Profile.from_json((self.path / "profile.json").read_text("utf-8"))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The files, in row order."""
        return tuple(
            Part(self.path / part["path"], part["rows"], part["sha256"])
            for part in self.manifest["parts"]
        )

    def part_table(
        self, part: Part, *, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read one part: all rows or those of a split, all columns or some.

        Raises:
            FormatError: the file is damaged.
        """
        wanted = None if columns is None else [*columns, *({"split"} - set(columns))]
        try:
            with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
                table = file.read(columns=wanted).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{part.path} is damaged ({error}); ingest again") from None
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table if columns is None else table.select(list(columns))

    def batches(
        self,
        rows: int = PART_ROWS,
        *,
        split: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows in the snapshot's order, `rows` at a time, in bounded memory."""
        tables = (self.part_table(part, split=split, columns=columns) for part in self.parts)
        return rebatched((batch for table in tables for batch in table.to_batches()), rows)

    def table(self, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read everything at once: all rows or those of a split, all columns or some."""
        tables = [self.part_table(part, split=split, columns=columns) for part in self.parts]
        return pa.concat_tables(tables)

    def verify(self) -> None:
        """Compare every part with its sha256.

        Raises:
            FormatError: lists what is missing or changed.
        """
        verify_parts(self.path, self.manifest)


def open_snapshot(path: Path, *, reused: bool = True) -> Snapshot:
    """Open a snapshot by its folder.

    Raises:
        FormatError: there is none, or a newer version wrote it.
    """
    return Snapshot(path, read_manifest(path, format=FORMAT, version=VERSION), reused)


@dataclass(frozen=True)
class Recipe:
    """A source and the settings that turn it into a snapshot."""

    source: Source
    name: str
    overrides: Mapping[str, Mapping[str, Any]]
    key: str | None
    label: str | None
    split: tuple[float, float]
    contract: Contract | None

    @cached_property
    def digest(self) -> str:
        """What identifies the recipe; reading the source's bytes is the cost."""
        return digest_of(
            {
                "source": self.source.digest,
                "overrides": self.overrides,
                "key": self.key,
                "label": self.label,
                "split": self.split,
                "contract": None if self.contract is None else self.contract.digest,
                "versions": [RULES, VERSION],
            }
        )[:32]


def find_snapshot(
    source: str | Path | Any, *, name: str, root: Path, **settings: Any
) -> Snapshot | None:
    """Return the snapshot that `ingest` would return, if it has been made already.

    Raises:
        SourceError: the source is missing or damaged.
    """
    return _indexed(root, _recipe(source, name=name, **settings))


def ingest(source: str | Path | Any, *, name: str, root: Path, **settings: Any) -> Snapshot:
    """Check a source against its contract and keep it as a snapshot, or find it kept.

    Args:
        source: a file, or a table (see `data.sources.open_source`).
        name: the data set's name, and its folder under `root`.
        root: where snapshots live.
        **settings: `overrides` (column -> settings), `key`, `label`, `split` as (valid, test)
            fractions, and `contract`, which is taken as it is instead of being inferred.

    Raises:
        SourceError: missing, empty, damaged, or nothing in it that a model could read.
        SpecError: a setting names something that does not exist.
        ContractError: lists every way in which the source breaks its contract.
    """
    recipe = _recipe(source, name=name, **settings)
    if (known := _indexed(root, recipe)) is not None:
        return known
    staging = Staging(root, recipe.digest)
    with locked(staging.lock_path()):
        known = _indexed(root, recipe)  # a twin may have finished while we waited
        return known if known is not None else _ingest(recipe, root, staging)


def _recipe(
    source: str | Path | Any,
    *,
    name: str,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    key: str | None = None,
    label: str | None = None,
    split: tuple[float, float] = (0.1, 0.1),
    contract: Contract | None = None,
) -> Recipe:
    if contract is not None and (overrides or key or label):
        raise SpecError("a contract says it all: give no overrides, key or label beside it")
    return Recipe(
        open_source(source), safe_name(name), overrides or {}, key, label, split, contract
    )


def _indexed(root: Path, recipe: Recipe) -> Snapshot | None:
    entry = root / recipe.name / ".index" / f"{recipe.digest}.json"
    if not entry.exists():
        return None
    folder = root / recipe.name / json.loads(entry.read_bytes())["fingerprint"]
    return open_snapshot(folder) if (folder / "manifest.json").exists() else None


def _ingest(recipe: Recipe, root: Path, staging: Staging) -> Snapshot:
    seen = survey(recipe.source.batches(), recipe.source.schema)
    if not seen.rows:
        raise SourceError(
            f"{recipe.source.describe} has no rows; there is nothing to learn from"
        )
    contract = recipe.contract or infer_contract(
        seen, name=recipe.name, key=recipe.key, label=recipe.label, overrides=recipe.overrides
    )
    written = _write_parts(recipe, contract, staging)
    fingerprint = digest_of(
        {
            "content": [part.content for part in written.parts],
            "contract": contract.digest,
            "split": recipe.split,
            "version": VERSION,
        }
    )[:16]
    valid, test = recipe.split
    staging.add_file("contract.json", contract.to_json().encode())
    staging.add_file("profile.json", seen.profile().to_json().encode())
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": recipe.name,
        "fingerprint": fingerprint,
        "contract": {"version": contract.version, "digest": contract.digest},
        "split": {"valid": valid, "test": test},
        "split_rows": written.split_rows,
        "counts": written.counts,
        "schema": {f.name: str(f.type) for f in written.schema},
    }
    path = staging.commit(root / recipe.name / fingerprint, written.parts, header)
    entry = {
        "fingerprint": fingerprint,
        "source": recipe.source.describe,
        "source_digest": recipe.source.digest,
        "extra_columns": written.extra,
    }
    index = root / recipe.name / ".index" / f"{recipe.digest}.json"
    put_once(index, json.dumps(entry, indent=1).encode())
    return open_snapshot(path, reused=False)


@dataclass
class Written:
    """What came of writing the parts."""

    schema: pa.Schema = None
    parts: list[PartRecord] = field(default_factory=list)
    split_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    counts: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)


def _write_parts(recipe: Recipe, contract: Contract, staging: Staging) -> Written:
    """Check, split and write all rows, part by part.

    Raises:
        ContractError: after the last row, so that every breach is in it.
    """
    checker, written = Checker(contract), Written()
    valid, test = recipe.split
    batches = recipe.source.batches(_part_rows(contract), row_id=contract.key is None)
    for number, batch in enumerate(batches):
        table = checker.add(batch)
        if checker.failed:
            continue
        splits = split_of(hash_keys(table[contract.key or ROW_ID]), valid=valid, test=test)
        table = table.append_column("split", pa.array(splits, pa.string()))
        for split in SPLITS:
            written.split_rows[split] += int((splits == split).sum())
        written.schema = table.schema
        written.parts.append(staging.write_part(number, table, _footer(recipe, contract)))
    if breaches := checker.breaches():
        staging.discard()
        raise ContractError(recipe.source.describe, contract, breaches)
    return replace(written, counts=checker.tolerated(), extra=checker.extra)


def _footer(recipe: Recipe, contract: Contract) -> dict[str, str]:
    """What a part says of itself: nothing of the recipe, so that equal content is equal bytes."""
    return {
        "format": FORMAT,
        "format_version": str(VERSION),
        "dataset": recipe.name,
        "publication": digest_of([contract.digest, recipe.split])[:16],
    }


def _part_rows(contract: Contract) -> int:
    """As many rows as fit comfortably into memory as a model's input, in whole thousands."""
    entries = sum(column.entries for column in contract.encoded)
    return min(PART_ROWS, max(1, PART_ENTRIES // entries // 1024) * 1024)
