"""Registered models as folders that may be trusted: fetched once, held against the registry.

The digest in the registry's tag is what a folder must have before a byte of it is parsed. A
version without that tag is another program's: it is never loaded, whatever it is called.
"""

import shutil
import tempfile
from pathlib import Path

from data.publication import locked
from flows import tracking
from flows.settings import Home
from flows.tracking import Registered
from vae_engine.artifact import SUMS, ArtifactError, verify


def fetched(home: Home, version: Registered) -> Path:
    """The artifact folder of a version, from this home's cache or the registry; verified.

    Raises:
        ArtifactError: the version is not one of ours, or its files are not those that were
            registered.
        TrackingError: the registry or its store cannot be reached.
    """
    where = f"{version.name} version {version.version}"
    if not version.digest:
        raise ArtifactError(
            f"{where} carries no tag {tracking.DIGEST_TAG!r}: it was not registered by this "
            f"program and is not loaded. Choose another champion: latents promote "
            f"{version.name} VERSION"
        )
    cache = home.root / "models" / version.digest
    with locked(cache.parent / f".{version.digest}.lock"):  # another may be bringing it
        if not _is_whole(cache, version.digest):
            _fetch(home, version, cache)
    verify(cache, version.digest)
    return cache


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        verify(folder, digest)
    except ArtifactError:
        return False
    return True


def _fetch(home: Home, version: Registered, cache: Path) -> None:
    """Download beside the cache, and put the artifact's folder in its place by one rename."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".fetch-") as scratch:
        tracking.download_model(version, home, Path(scratch))
        found = sorted(Path(scratch).rglob(SUMS))
        if len(found) != 1:
            raise ArtifactError(
                f"{version.name} version {version.version} holds {len(found)} files named "
                f"{SUMS} where one model of ours holds 1; it is not loaded"
            )
        shutil.rmtree(cache, ignore_errors=True)
        found[0].parent.rename(cache)
