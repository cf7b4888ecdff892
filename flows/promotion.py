"""Moving the alias `champion`, by the gate or by hand, and pointing readers at its features."""

from pathlib import Path
from typing import Any

from data.features import latest_of, open_features, write_latest
from data.publication import locked
from data.snapshot import open_snapshot
from data.working_copy import bring, bring_published
from flows import tracking
from flows.encode import publish_features
from flows.lookup import NotFoundError, near
from flows.runs import RunFolder, read_record
from flows.settings import Home
from flows.spec import EncodingSection
from flows.tracking import Registered
from flows.vault import fetched


def registry_lock(home: Home, model: str) -> Path:
    """The lock under which aliases of `model` move: the registry itself lets the last one win."""
    return home.root / f".registry-{model}.lock"


def crown(home: Home, model: str, version: int, dataset: str) -> None:
    """Make `version` champion and let `open_features` follow, if it has a publication.

    The alias, its journal and the readers' pointer are three writes: call it under the lock.
    """
    tracking.set_alias(home, model, tracking.CHAMPION, version)
    point_readers(home, dataset, version)


def point_readers(home: Home, dataset: str, version: int) -> None:
    """Let `latest.json` name the publication of `version`, if it has one."""
    published = latest_of(home.features, dataset)["versions"]
    if str(version) in published:
        write_latest(
            home.features,
            dataset,
            version=version,
            publication=published[str(version)],
            champion=True,
        )


def promote(home: Home, model: str, version: int) -> dict[str, Any]:
    """Make `version` of `model` champion, whatever the gate said: a person decided.

    Its features of what the present champion has published are published first, so that no
    reader of `champion` finds an older data set, or nothing.

    Raises:
        NotFoundError: there is no such model or version.
        ArtifactError: the version is not what was registered.
    """
    known = tracking.versions(home, model)
    if not known:
        raise NotFoundError(
            f"no model {model!r} is registered{near(model, tracking.model_names(home))}"
        )
    chosen = [found for found in known if found.version == version]
    if not chosen:
        numbers = ", ".join(str(found.version) for found in known)
        raise NotFoundError(f"model {model!r} has no version {version}; it has {numbers}")
    before = [found.version for found in known if tracking.CHAMPION in found.aliases]
    dataset = chosen[0].tags.get("latents.dataset", model)
    publication = _published(home, chosen[0], dataset)
    with locked(registry_lock(home, model)):
        crown(home, model, version, dataset)
        history = tracking.champions(home, model)
    return {
        "model": model,
        "champion": version,
        "before": before[0] if before else None,
        "history": history,
        "publication": publication,
    }


def _published(home: Home, version: Registered, dataset: str) -> str | None:
    """The publication under `version` of what is current; None where the rows are not here."""
    wanted = _current(home, version, dataset)
    if wanted is None:
        return None
    fingerprint, encoding = wanted
    folder = home.datasets / dataset / fingerprint
    bring_published(folder.parent)
    if not (folder / "manifest.json").exists():
        return None
    encoder = {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "folder": str(fetched(home, version)),
        "champion": False,
    }
    published = publish_features(encoding, home, open_snapshot(folder), encoder)
    return str(published.value["id"])


def _current(
    home: Home, version: Registered, dataset: str
) -> tuple[str, EncodingSection] | None:
    """The snapshot and encoding that readers have now, else those of the version's own run."""
    if latest_of(home.features, dataset)["champion"] is not None:
        plan = open_features(dataset, home=home.address).manifest["plan"]
        return plan["fingerprint"], EncodingSection.model_validate(plan["encoding"])
    own = RunFolder(home.runs / version.tags.get("latents.run_id", "")).plan
    bring(own.parent, own.name)
    if not own.exists():
        return None
    plan = read_record(own)
    return plan["fingerprint"], EncodingSection.model_validate(plan["spec"]["encoding"])


def rollback(home: Home, model: str) -> dict[str, Any]:
    """Make the champion before the present one champion again.

    Raises:
        NotFoundError: there is no such model, or it had one champion only.
    """
    if not tracking.versions(home, model):
        raise NotFoundError(
            f"no model {model!r} is registered{near(model, tracking.model_names(home))}"
        )
    history = tracking.champions(home, model)
    # The one before it first became champion: a second rollback goes further back.
    earlier = history[: history.index(history[-1])] if history else []
    if not earlier:
        raise NotFoundError(f"model {model!r} had no earlier champion to go back to")
    return promote(home, model, earlier[-1])
