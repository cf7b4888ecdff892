"""Looking after publications: verify one, compare two, clear away what dead writers left."""

from dataclasses import asdict
from typing import Any

from data.contract import ROW_ID
from data.features import open_features
from data.publications import collect, difference, stale_staging
from flows.lookup import publication
from flows.settings import Home


def verify(home: Home, name: str) -> dict[str, Any]:
    """Show the champion's publication, once every file of it was compared with its sha256.

    Raises:
        FormatError: a file is missing or was changed.
    """
    shown = publication(home, name)
    open_features(name, home=home.root, verify=True)
    return shown | {"verified": True}


def compare(home: Home, name: str, other: str) -> dict[str, Any]:
    """How publication `other` differs from the champion's latest one: rows, columns, manifest.

    Raises:
        NotPublishedError: there is no such publication.
    """
    publication(home, name)  # offers the near miss
    latest = open_features(name, home=home.root)
    theirs = open_features(name, home=home.root, publication=other)
    key = latest.schema.names[0] if ROW_ID not in latest.schema.names else ROW_ID
    found = difference(theirs, latest, key=key)
    ids = [features.path.name.partition("=")[2] for features in (theirs, latest)]
    return {"name": name, "publications": ids, "same": found.same, **asdict(found)}


def clear(home: Home) -> dict[str, Any]:
    """Remove what writers that were killed left a day ago or earlier, in every store of the home."""
    count = size = 0
    for root in (home.datasets, home.features, home.root / "packed"):
        removed, freed = collect(stale_staging(root))
        count, size = count + removed, size + freed
    return {"removed": count, "bytes": size}
