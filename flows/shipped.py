"""The code that travels with a registered model: what serves it, and the packages that needs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGES = ("data", "vae_engine")
SERVED = "served_model.py"


@contextmanager
def shipped_code() -> Iterator[Path]:
    """Yield a folder with copies of them, for MLflow to copy: modules alone, no samples.

    Who may read them is as the umask says, not as an installer left it.
    """
    flows = Path(__file__).parent
    with TemporaryDirectory(prefix="latents-") as name:
        folder = Path(name)
        shutil.copyfile(flows / SERVED, folder / SERVED)
        for package in PACKAGES:
            for module in sorted((flows.parent / package).rglob("*.py")):
                copy = folder / module.relative_to(flows.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(module, copy)
        yield folder
