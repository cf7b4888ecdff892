"""Published features as tensors: the same numbers, whatever the layout."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.contract import Contract, SpecError, UnknownNameError
from data.features import FORMAT, VERSION, Features, features_table, open_features, write_latest
from data.inference import infer_contract
from data.publication import Staging
from data.survey import survey
from flows.iterate import FeatureTensors

ROWS = 100


def contract(rows: pa.Table) -> Contract:
    return infer_contract(survey(rows.to_batches(), rows.schema), name="t", key="id", label="y")


def published(home: Path, latents: int, layout: str) -> Features:
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "id": [f"row-{k}" for k in range(ROWS)],
            "x": random.normal(size=ROWS),
            "y": np.arange(ROWS) % 3,
        }
    )
    kept = rows.append_column("split", pa.array(["train", "test"] * (ROWS // 2)))
    mean, stddev = random.normal(size=(2, ROWS, latents)).astype(np.float32)
    table = features_table(kept, contract(rows), mean, stddev, model_version=1, layout=layout)
    staging = Staging(home / "features", f"p{latents}{layout}")
    part = staging.write_part(0, table, {})
    header = {"format": FORMAT, "format_version": VERSION, "latents": latents}
    final = home / "features" / "t" / "model_version=v1" / f"publication={staging.id}"
    staging.commit(final, [part], header)
    root = home / "features"
    write_latest(root, "t", version=1, publication=staging.id, champion=True)
    return open_features("t", home=home)


@pytest.mark.parametrize("layout", ["wide", "vector"])
@pytest.mark.parametrize("latents", [1, 3])
def test_every_row_comes_once_an_epoch_in_order(
    tmp_path: Path, layout: str, latents: int
) -> None:
    features = published(tmp_path, latents, layout)

    tensors = FeatureTensors(features, ["z_mean", "y"], batch_rows=30)

    for _ in range(2):
        batches = list(tensors)
        assert [len(batch["y"]) for batch in batches] == [30, 30, 30, 10]
        z = torch.cat([batch["z_mean"] for batch in batches])
        assert z.dtype == torch.float32
        np.testing.assert_array_equal(z.numpy(), features.to_numpy("z_mean"))
        assert torch.cat([batch["y"] for batch in batches]).tolist() == [
            k % 3 for k in range(ROWS)
        ]


def test_a_split_comes_alone_and_trains_something(tmp_path: Path) -> None:
    features = published(tmp_path, 3, "wide")
    model = torch.nn.Linear(3, 3)

    for batch in FeatureTensors(features, ["z_mean", "z_stddev", "y"], split="train"):
        assert len(batch["y"]) == ROWS // 2
        torch.nn.functional.cross_entropy(model(batch["z_mean"]), batch["y"]).backward()

    assert model.weight.grad is not None


def test_what_is_no_number_and_what_is_not_there_are_named(tmp_path: Path) -> None:
    features = published(tmp_path, 2, "wide")

    with pytest.raises(SpecError, match="'id' is string, which is no number"):
        list(FeatureTensors(features, ["id"]))
    with pytest.raises(UnknownNameError, match="z_meen"):
        list(FeatureTensors(features, ["z_meen"]))
