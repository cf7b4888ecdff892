"""Looking after publications: verify one, compare two, clear away what dead writers left."""

from dataclasses import asdict
from itertools import chain
from typing import Any

from data.bucket import S3Path, opened
from data.contract import ROW_ID
from data.features import list_publications, open_features
from data.garbage import (
    STALE_HOURS,
    collect,
    stale_staging,
    stale_temporaries,
    superseded,
    unfinished,
)
from data.publications import difference
from flows.lookup import publication
from flows.settings import Home


def verify(home: Home, name: str) -> dict[str, Any]:
    """Show the champion's publication, once every file of it was compared with its sha256.

    Raises:
        FormatError: a file is missing or was changed.
    """
    shown = publication(home, name)
    open_features(name, home=home.address, verify=True)
    return shown | {"verified": True}


def compare(home: Home, name: str, other: str) -> dict[str, Any]:
    """How publication `other` differs from the champion's latest one: rows, columns, manifest.

    Raises:
        NotPublishedError: there is no such publication.
    """
    publication(home, name)  # offers the near miss
    latest = open_features(name, home=home.address)
    theirs = open_features(name, home=home.address, publication=other)
    key = latest.schema.names[0] if ROW_ID not in latest.schema.names else ROW_ID
    found = difference(theirs, latest, key=key)
    ids = [features.path.name.partition("=")[2] for features in (theirs, latest)]
    return {"name": name, "publications": ids, "same": found.same, **asdict(found)}


def clear(home: Home, *, keep: int | None = None, hours: float = STALE_HOURS) -> dict[str, Any]:
    """Remove what writers that were killed left `hours` ago or earlier, in every store of the home.

    With `keep`, also publications that no pointer has named for so long, but for the newest `keep`
    of each model version. Of a home in a bucket: there, and in this machine's copy.
    """
    stores = (home.root, home.datasets, home.features, home.root / "packed")
    stale = (stale_staging(root, hours=hours) for root in stores)
    folders = (home.datasets, home.features, home.runs, home.root / "models")
    half_done = (stale_temporaries(folder, hours=hours) for folder in folders)
    place = opened(home.address)
    in_bucket = unfinished(place, hours=hours) if isinstance(place, S3Path) else ()
    old = (
        superseded(address, name, keep=keep, hours=hours)
        for address in sorted({str(home.root), home.address})
        for name in sorted({found.name for found in list_publications(address)})
        if keep is not None
    )
    count, size = collect(chain(*stale, *half_done, in_bucket, *old))
    return {"removed": count, "bytes": size}
