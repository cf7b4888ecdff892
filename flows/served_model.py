"""The registered model as MLflow serves it: raw rows in, latent features out.

MLflow copies this file and the packages `data` and `vae_engine` beside the weights, so it
runs in an environment that has not this project installed. What it loads is a folder of
safetensors and JSON, checked against its own sums first.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from data.checking import conform
from data.contract import Contract
from data.features import feature_names
from data.preprocessing import Preprocessor
from vae_engine.artifact import load_model
from vae_engine.encoding import Encoder


class LatentFeatures(PythonModel):
    """q(z|x) of raw rows: `z_mean_*` and `z_stddev_*`, with the index of the input."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the encoder, the contract and the preprocessor from the artifact folder."""
        folder = Path(context.artifacts["model"])
        self.encoder = Encoder(load_model(folder))
        contract = Contract.from_json((folder / "contract.json").read_text(encoding="utf-8"))
        # Key and label are not asked for, and one new category must not fail a request.
        columns = tuple(replace(c, max_unknown=1.0) for c in contract.inputs.columns)
        self.contract = replace(contract, columns=columns)
        self.preprocessor = Preprocessor.from_json(
            (folder / "preprocessor.json").read_text(encoding="utf-8")
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """The features of each row of `model_input`, in its order.

        Raises:
            data.checking.ContractError: rows break the contract; all breaches are listed.
        """
        table = conform(pa.Table.from_pandas(model_input, preserve_index=False), self.contract)
        mean, stddev = self.encoder(torch.from_numpy(self.preprocessor.transform(table).x))
        named = {"z_mean": mean.numpy(), "z_stddev": stddev.numpy()}
        columns = {
            name: values[:, index]
            for prefix, values in named.items()
            for index, name in enumerate(feature_names(prefix, values.shape[1]))
        }
        return pd.DataFrame(columns, index=model_input.index)


set_model(LatentFeatures())
