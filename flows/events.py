"""What happens to a data set, as Prefect events: others may act on them, and on nothing else.

    latents.data.arrived    the source has changed, and has been still since
    latents.data.drifted    new data are not what the champion was trained on
    latents.run.failed      a run ended without its features: also .crashed and .cancelled

The resource of each is `latents.dataset.<name>`.
"""

from typing import Any

ARRIVED = "latents.data.arrived"
DRIFTED = "latents.data.drifted"
RUN = "latents.run"
TRIGGERS = {"arrival": ARRIVED, "drift": DRIFTED}  # what a deployment may start on


def resource_id(dataset: str) -> str:
    """What an event about a data set is about."""
    return f"latents.dataset.{dataset}"


def announce(event: str, dataset: str, payload: dict[str, Any]) -> None:
    """Emit one event about a data set."""
    from prefect.events import emit_event

    resource = {
        "prefect.resource.id": resource_id(dataset),
        "prefect.resource.name": dataset,
    }
    emit_event(event=event, resource=resource, payload=payload)
