"""How a text table is written: found once in `data.dialect`, and frozen in a contract."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class CsvDialect:
    """How a text table is written."""

    encoding: str = "utf-8"
    delimiter: str = ","  # a blank: any number of blanks and tabs
    decimal: str = "."
    header: bool = True  # else the columns are f0, f1, ...
    skip: int = 0  # lines before the table
    row_names: bool = False  # the first cell of a row has no name above it, as R writes tables
    nulls: tuple[str, ...] = ()  # what else stands for a cell that was not observed

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Take it from what JSON holds."""
        return cls(**{**said, "nulls": tuple(said.get("nulls", ()))})

    def to_mapping(self) -> dict[str, Any]:
        """What JSON holds of it, and as it was before there were headers to leave out."""
        said: dict[str, Any] = {**asdict(self), "nulls": list(self.nulls)}
        usual = {"header": True, "skip": 0, "row_names": False, "nulls": []}
        return {name: value for name, value in said.items() if value != usual.get(name)}
