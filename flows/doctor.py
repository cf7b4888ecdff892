"""`latents doctor`: what is here, what works, and what to do about what does not."""

import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data.working_copy import prove
from flows.redaction import redacted
from flows.settings import Home

PACKAGES = ("torch", "prefect", "mlflow", "pandas", "pyarrow", "numpy")


def examine(home: Home) -> list[dict[str, Any]]:
    """One finding for each thing looked at: `what`, `ok`, `detail`."""
    return [
        _finding("python", platform.python_version),
        *[_finding(name, partial(version, name)) for name in PACKAGES],
        _finding("device", _device),
        _finding("compiled steps", _compiled),
        _finding("home", partial(_writable, home)),
        _finding("mlflow store", partial(_mlflow, home)),
        _finding("prefect server", _prefect),
    ]


def _finding(what: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "detail": look()}
    except Exception as error:  # noqa: BLE001  # whatever is wrong is what we are here to say
        return {"what": what, "ok": False, "detail": f"{type(error).__name__}: {error}"}


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({torch.cuda.device_count()} GPU)"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _compiled() -> str:
    try:
        return f"by Numba {version('numba')}, where a step is large enough"
    except PackageNotFoundError:
        return "none: training on a CPU is faster with pip install 'latent-features[fast]'"


def _writable(home: Home) -> str:
    prove(home.root)
    with tempfile.TemporaryFile(dir=home.root):
        is_copy = home.address != str(home.root)
        return f"{home.address} is writable{f', by {home.root}' if is_copy else ''}"


def _mlflow(home: Home) -> str:
    from flows import tracking

    names = tracking.model_names(home)
    return f"{redacted(home.tracking_uri)}: {len(names)} registered models"


def _prefect() -> str:
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return "embedded: started by each run that has work to do (PREFECT_API_URL is not set)"
    from flows.server import silence

    if (why := silence()) is not None:
        raise why
    return f"{redacted(url)} answers"
