"""What importing the engine brings along."""

import subprocess
import sys

SCRIPT = """
from vae_engine.config import Column, ModelConfig
from vae_engine.model import build_model

column = Column(name="x", likelihood="bernoulli", width=64, image=(8, 8, 1))
for network in ("mlp", "conv", "residual"):
    build_model(ModelConfig(columns=(column,), latents=2, network=network), seed=0)

import importlib, pkgutil, sys, vae_engine
for module in pkgutil.walk_packages(vae_engine.__path__, "vae_engine."):
    importlib.import_module(module.name)
print(sorted({"pandas", "pyarrow", "prefect", "mlflow", "pydantic", "zuko", "sympy"} & set(sys.modules)))
"""


def test_no_table_no_tracker_and_no_flow_is_imported() -> None:
    """zuko switches off torch's argument checks for the whole process: models without flows must
    not pay for it. sympy is half a second of a compiler that nobody asked for."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == "[]"
