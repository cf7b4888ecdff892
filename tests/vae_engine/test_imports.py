"""What importing the engine brings along."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys, vae_engine
for module in pkgutil.walk_packages(vae_engine.__path__, "vae_engine."):
    importlib.import_module(module.name)
print(sorted({"pandas", "pyarrow", "prefect", "mlflow", "pydantic", "zuko"} & set(sys.modules)))
"""


def test_no_table_no_tracker_and_no_flow_is_imported() -> None:
    """zuko switches off torch's argument checks for the whole process: models without flows must
    not pay for it."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == "[]"
