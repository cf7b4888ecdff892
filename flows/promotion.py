"""Moving the alias `champion`, by the gate or by hand, and pointing readers at its features."""

from typing import Any

from data.features import latest_of, write_latest
from flows import tracking
from flows.lookup import NotFoundError, near
from flows.settings import Home


def crown(home: Home, model: str, version: int, dataset: str) -> None:
    """Make `version` champion and let `open_features` follow, if it has a publication."""
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

    Raises:
        NotFoundError: there is no such model or version.
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
    crown(home, model, version, chosen[0].tags.get("latents.dataset", model))
    return {
        "model": model,
        "champion": version,
        "before": before[0] if before else None,
        "history": tracking.champions(home, model),
    }


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
