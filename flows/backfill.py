"""Encoding with a version that is not champion, because a person asked for it.

Readers who pin that version find its features of today's rows; what the champion's readers find
stays as it is.
"""

from pathlib import Path
from typing import Any

from data.preprocessing import Preprocessor
from data.snapshot import open_snapshot
from flows import summary, tracking
from flows.encode import publish_features
from flows.ingest import ingest_dataset
from flows.lookup import NotFoundError, near
from flows.settings import Home
from flows.spec import Spec
from flows.vault import fetched


class BackfillError(ValueError):
    """The version cannot read these rows."""


def backfill(spec: Spec, home: Home, version: int) -> dict[str, Any]:
    """Publish the spec's rows under `version` of its model; return the summary of a run.

    Raises:
        NotFoundError: there is no such version.
        BackfillError: it was trained under another contract.
    """
    name = spec.model_name
    known = {found.version: found for found in tracking.versions(home, name)}
    if not known:
        raise NotFoundError(
            f"no model {name!r} is registered{near(name, tracking.model_names(home))}"
        )
    if version not in known:
        numbers = ", ".join(map(str, known))
        raise NotFoundError(f"model {name!r} has no version {version}; it has {numbers}")
    ingested = ingest_dataset(spec, home)
    snapshot = open_snapshot(Path(ingested.value["path"]))
    folder = fetched(home, known[version])
    reads = Preprocessor.from_json((folder / "preprocessor.json").read_text("utf-8"))
    if reads.contract_digest != snapshot.contract.digest:
        raise BackfillError(
            f"{name} version {version} was trained under another contract than snapshot "
            f"{snapshot.fingerprint} has, so it cannot read its rows; train a new version"
        )
    encoder = {
        "name": name,
        "version": version,
        "digest": known[version].digest,
        "folder": str(folder),
        "champion": False,
    }
    encoded = publish_features(spec.encoding, home, snapshot, encoder, spec.execution)
    return summary.of(spec, {"ingest": ingested, "encode": encoded})
