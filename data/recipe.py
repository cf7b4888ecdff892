"""A source and the settings that turn it into a snapshot; and the contract they led to first.

A contract is inferred once, from the first source of its name and settings, and kept in the
index beside the snapshots. A later source is read as that one was (its dialect, which columns
are text) and held to the same contract, until a person raises `contract_version`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data.contract import Contract, SpecError, check_format_of
from data.formats import Reading
from data.inference import VERSION as RULES
from data.inference import infer_contract
from data.publication import digest_of, put_once, safe_name
from data.shards import Mapper
from data.sources import Source, open_source
from data.surveyed import Surveyed, stays_text, surveyed

VERSION = 1  # of what is made of a recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A source and the settings that turn it into a snapshot (see `ingest`)."""

    source: str | Path | Any
    name: str
    root: Path
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    key: str | None = None
    label: str | None = None
    split: tuple[float, float] = (0.1, 0.1)
    contract: Contract | None = None
    query: str | None = None
    csv: Mapping[str, Any] | None = None
    extra: str = "ignore"
    contract_version: int = 1

    def __post_init__(self) -> None:
        safe_name(self.name)
        if self.contract is not None and (self.overrides or self.key or self.label):
            raise SpecError("a contract says it all: give no overrides, key or label beside it")

    @cached_property
    def settings_digest(self) -> str:
        """What identifies the settings: sources of one name and these share a contract."""
        return digest_of(
            {
                "overrides": self.overrides or {},
                "key": self.key,
                "label": self.label,
                "contract": None if self.contract is None else self.contract.digest,
                "query": self.query,
                "csv": self.csv,
                "extra": self.extra,
                "contract_version": self.contract_version,
            }
        )[:32]

    @cached_property
    def digest(self) -> str:
        """What identifies the recipe; reading the source's bytes is the cost."""
        parts = [self.opened.digest, self.settings_digest, self.split, RULES, VERSION]
        return digest_of(parts)[:32]

    @property
    def folder(self) -> Path:
        """Where snapshots of this name are."""
        return self.root / self.name

    @cached_property
    def known_contract(self) -> Contract | None:
        """The contract that is given, or that an earlier source of these settings led to."""
        if self.contract is not None or not self._contract_path.exists():
            return self.contract
        return Contract.from_json(self._contract_path.read_text("utf-8"))

    @cached_property
    def opened(self) -> Source:
        """The source, read as its contract or its settings say."""
        known = self.known_contract
        types = {} if known is None else {c.name: c.dtype for c in known.columns}
        types |= {n: str(c["dtype"]) for n, c in (self.overrides or {}).items() if "dtype" in c}
        sizes: dict[str, Any] = {}
        if known is not None:
            sizes = {c.name: (c.height, c.width) for c in known.columns if c.scaled}
        sizes |= {
            name: _size(name, given)
            for name, given in (self.overrides or {}).items()
            if "height" in given and "width" in given
        }
        reading = Reading(
            csv=self.csv or {},
            frozen=None if known is None or self.csv else known.csv,
            types=types,
            sizes=sizes,
            may_scale=known is None,
        )
        return open_source(self.source, query=self.query, reading=reading)

    def survey(self, mapper: Mapper) -> Surveyed:
        """Look at the source, and find how its texts are written where that is not known."""
        known, given = self.known_contract, self.overrides or {}
        if known is not None:
            said, texts = {c.name: c.format for c in known.columns if c.format}, None
        else:
            said = {n: str(c["format"]) for n, c in given.items() if c.get("format")}
            for column, format_ in said.items():
                check_format_of(column, format_)
            texts = {n for n, c in given.items() if stays_text(c)} | {self.key, self.label}
        return surveyed(self.opened, mapper, said=said, texts=texts)

    def contract_of(self, found: Surveyed) -> Contract:
        """The known contract, or one inferred from what was seen of the source."""
        if self.known_contract is not None:
            return self.known_contract
        inferred = infer_contract(
            found.seen,
            name=self.name,
            key=self.key,
            label=self.label,
            overrides=self.overrides,
            formats=found.formats,
            nearly=found.nearly,
        )
        return replace(
            inferred, version=self.contract_version, extra=self.extra, csv=self.opened.csv
        )

    def remember(self, contract: Contract, entry: Mapping[str, Any]) -> None:
        """Note the contract for sources to come, and then which snapshot this recipe gave.

        In this order: a recipe with a snapshot is never read again, whose contract would then
        be missing for good.
        """
        if self.contract is None:
            put_once(self._contract_path, contract.to_json().encode())
        put_once(self.index_path, json.dumps(entry, indent=1).encode())

    @property
    def index_path(self) -> Path:
        """The file that says which snapshot this recipe gave."""
        return self.folder / ".index" / f"{self.digest}.json"

    @property
    def _contract_path(self) -> Path:
        return self.folder / ".index" / f"contract-{self.settings_digest}.json"


def _size(column: str, given: Mapping[str, Any]) -> tuple[int, int]:
    size = given["height"], given["width"]
    if not all(type(side) is int and side > 0 for side in size):
        raise SpecError(
            f"column {column!r}: height and width are numbers of pixels, not {size}"
        )
    return size
