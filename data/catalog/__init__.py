"""Specs that come with the house (TOML), and the code that finds them by name."""

from pathlib import Path

from data.contract import UnknownNameError, near_miss

HERE = Path(__file__).parent


def names() -> list[str]:
    """List the data sets that can be run by name."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def find(name: str) -> Path:
    """Return the spec of that name.

    Raises:
        UnknownNameError: there is none; offers the near miss.
    """
    if name not in names():
        raise UnknownNameError(near_miss("catalog name", name, names()))
    return HERE / f"{name}.toml"
