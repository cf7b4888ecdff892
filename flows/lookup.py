"""What there is: publications and model versions, as plain values for people and scripts."""

import difflib
from collections.abc import Iterable
from typing import Any

from data import features as store
from flows.settings import Home


class NotFoundError(LookupError):
    """There is nothing of that name; the message offers the near miss."""

    def __str__(self) -> str:
        return str(self.args[0])


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message: the name that was probably meant, or those that there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if names else "; there are none in this home"


def publications(home: Home) -> list[dict[str, Any]]:
    """Every publication in the home, a line each."""
    return [
        {
            "name": found.name,
            "model_version": found.model_version,
            "publication": found.publication,
            "rows": found.rows,
            "path": str(found.path),
            "latest": found.latest,
        }
        for found in store.list_publications(home.address)
    ]


def publication(home: Home, name: str) -> dict[str, Any]:
    """The champion's latest publication of a data set, and how to read it.

    Raises:
        NotFoundError: the home has no publication of that name.
    """
    known = sorted({found.name for found in store.list_publications(home.address)})
    if name not in known:
        raise NotFoundError(f"no features of {name!r} are published{near(name, known)}")
    features = store.open_features(name, home=home.address)
    manifest = features.manifest
    return {
        "name": name,
        "path": str(features.path / "data"),
        "rows": manifest["rows"],
        "latents": features.latents,
        "columns": [[field.name, str(field.type)] for field in features.schema],
        "read": f"open_features({name!r}, home={home.address!r})",
        "manifest": manifest,
    }


def models(home: Home, name: str | None) -> list[dict[str, Any]]:
    """Versions with aliases and metrics, of one model or of all.

    Raises:
        NotFoundError: there is no model of that name.
    """
    from flows import tracking

    known = tracking.model_names(home)
    if name is not None and name not in known:
        raise NotFoundError(f"no model {name!r} is registered{near(name, known)}")
    found = []
    for model in [name] if name else known:
        for version in tracking.versions(home, model):
            metrics = tracking.run_metrics(home, version.tags["mlflow_run"])
            found.append(
                {
                    "model": model,
                    "version": version.version,
                    "aliases": list(version.aliases),
                    "digest": version.digest,
                    "run_id": version.tags.get("latents.run_id"),
                    "fingerprint": version.tags.get("latents.fingerprint"),
                    "elbo": _estimate(metrics, "test/elbo_nats"),
                    "log_marginal": _estimate(metrics, "test/log_marginal_nats"),
                    "gate": version.tags.get("latents.gate"),
                    "gate_reason": version.tags.get("latents.gate_reason"),
                    "publication": version.tags.get("latents.publication"),
                }
            )
    return found


def _estimate(metrics: dict[str, float], name: str) -> dict[str, float] | None:
    if name not in metrics:
        return None
    return {"nats": metrics[name], "stderr": metrics[f"{name}_stderr"]}
