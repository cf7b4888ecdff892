"""One part of a snapshot: checked, split and written, in this process or in any other.

What is written is a function of the part's rows and its number. What was seen of the rows adds
up, in the order of the parts, to what a single checker would have seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.checking import Checker
from data.contract import ROW_ID, Contract
from data.publication import PartRecord, Staging
from data.splits import SPLITS, hash_keys, split_as_said, split_of


class RowsOfPart(NamedTuple):
    """The rows of one part, and where they stand in the source."""

    number: int
    first_row: int
    rows: pa.RecordBatch
    doomed: bool = False  # an earlier part breaks the contract: this one is checked only

    def __str__(self) -> str:
        return f"rows {self.first_row} to {self.first_row + len(self.rows)}"


class WrittenPart(NamedTuple):
    """What came of one part; no record where the contract is broken."""

    checker: Checker
    record: PartRecord | None = None
    schema: pa.Schema = None
    split_rows: Mapping[str, int] = {}


@dataclass(frozen=True)
class PartWriter:
    """How the parts of one snapshot are made."""

    contract: Contract
    split: tuple[float, float]
    staging: Staging
    footer: Mapping[str, str]
    kept: Mapping[str, tuple[Path, PartRecord]]  # earlier parts, by the digest of their cells

    def __call__(self, part: RowsOfPart) -> WrittenPart:
        """Check the rows, and write them unless the contract is broken."""
        checker = Checker(self.contract, first_row=part.first_row)
        table = checker.add(part.rows)
        if checker.failed or part.doomed:
            return WrittenPart(checker)
        table, splits = self._with_split(storable(table, self.contract))
        return WrittenPart(
            checker,
            self.staging.write_part(part.number, table, self.footer, self.kept),
            table.schema,
            {split: int((splits == split).sum()) for split in SPLITS},
        )

    def _with_split(self, table: pa.Table) -> tuple[pa.Table, npt.NDArray[np.str_]]:
        contract, (valid, test) = self.contract, self.split
        hashes = hash_keys(table[contract.key or ROW_ID])
        if contract.split is None:
            splits = split_of(hashes, valid=valid, test=test)
        else:
            said, categories = table[contract.split], contract[contract.split].categories or ()
            splits = split_as_said(said, hashes, categories=categories, valid=valid, test=test)
            table = table.drop_columns([contract.split])
        return table.append_column("split", pa.array(splits, pa.string())), splits


def fixed_lengths(contract: Contract) -> dict[str, int]:
    """The columns of lists of one length that may have nulls."""
    return {
        column.name: column.stored_type.list_size
        for column in contract.kept
        if pa.types.is_fixed_size_list(column.stored_type)
        and (column.nulls == "allow" or not column.is_encoded)
    }


def storable(table: pa.Table, contract: Contract) -> pa.Table:
    """Store as lists of any length what may have a null: Parquet readers stumble over it else."""
    for name in fixed_lengths(contract):
        place, kind = table.schema.get_field_index(name), table.schema.field(name).type
        table = table.set_column(place, name, table[name].cast(pa.list_(kind.value_type)))
    return table
