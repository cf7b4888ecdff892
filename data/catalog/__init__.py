"""Specs that come with the house (TOML), and the code that finds them by name."""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """List the data sets that can be run by name."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def find(name: str) -> Path:
    """Return the spec of that name.

    Raises:
        KeyError: there is none.
    """
    if name not in names():
        raise KeyError(f"the catalog has no {name!r}; it has {', '.join(names())}")
    return HERE / f"{name}.toml"
