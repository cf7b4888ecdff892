"""A small publication, made by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data.contract import ColumnContract, Contract
from data.features import FORMAT, VERSION, Features, features_table, open_features, write_latest
from data.publication import Staging

CONTRACT = Contract(
    name="t",
    columns=(
        ColumnContract(name="id", kind="key", dtype="string"),
        ColumnContract(name="x", kind="continuous", dtype="double"),
        ColumnContract(name="city", kind="carry", dtype="string"),
    ),
)
Latents = dict[str, tuple[float, float]]  # by key
SOME: Latents = {"a": (1, 2), "b": (3, 4), "c": (5, 6), "d": (7, 8)}


def published(
    home: Path,
    latents: Latents,
    *,
    publication: str = "one",
    version: int = 1,
    layout: str = "wide",
    city: str = "x",
    point: bool = False,
) -> Features:
    rows = pa.table(
        {
            "id": pa.array(latents, pa.string()),
            "city": pa.array([city] * len(latents), pa.string()),
            "split": pa.array(["train"] * len(latents), pa.string()),
        }
    )
    mean = np.array(list(latents.values()), np.float32).reshape(len(latents), 2)
    table = features_table(
        rows, CONTRACT, mean, np.ones_like(mean), model_version=version, layout=layout
    )
    staging = Staging(home / "features", publication)
    folder = home / "features" / "t" / f"model_version=v{version}"
    final = folder / f"publication={publication}"
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "latents": 2,
        "model_version": version,
    }
    staging.commit(final, [staging.write_part(0, table, {})], header)
    if point:
        write_latest(
            home / "features", "t", version=version, publication=publication, champion=True
        )
    return open_features("t", home=home, model_version=version, publication=publication)
