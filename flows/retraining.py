"""Would the features come back? A second training from another seed, and what the two share."""

from pathlib import Path
from typing import Any

from flows.handoff import Rows
from flows.probes import feature_stability
from flows.runs import RunFolder
from flows.settings import Home
from flows.spec import Spec, override
from flows.train import train_model
from vae_engine.artifact import load_model
from vae_engine.encoding import encode
from vae_engine.model import VAE


def features_retrained(
    spec: Spec, folder: RunFolder, model: VAE, train: Rows, test: Rows
) -> dict[str, Any]:
    """Train again with the next seed; say how well each model's features predict the other's."""
    home = Home(folder.home)
    again = override(spec, {"training.seed": spec.training.seed + 1})
    second = train_model(again, home, str(folder.snapshot)).value
    other = load_model(RunFolder(Path(second["path"])).model)
    pairs = [(encode(model, rows.x)[0], encode(other, rows.x)[0]) for rows in (train, test)]
    found = feature_stability(
        (pairs[0][0].numpy(), pairs[1][0].numpy()), (pairs[0][1].numpy(), pairs[1][1].numpy())
    )
    return found.to_mapping() | {"run_id": second["run_id"]}
