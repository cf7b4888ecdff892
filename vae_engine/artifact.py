"""A model as a folder that runs no code when it is loaded.

    model.safetensors   weights
    config.json         format, version and `ModelConfig`
    golden.json         a few rows of `x` with the features they gave when the model was saved
    SHA256SUMS          `<sha256>  <name>` of every other file, sorted by name

Other files may be put beside them before `seal` writes the sums. The digest of a model is the
sha256 of SHA256SUMS: who knows it, knows every byte.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from safetensors import torch as safetensors
from torch import Tensor

from vae_engine.config import ModelConfig
from vae_engine.encoding import encode
from vae_engine.files import sha256_of, sync_folder, write_durably
from vae_engine.likelihoods.paced import paced
from vae_engine.model import VAE, build_model

FORMAT = "latent-features/model"
VERSION = 1
SUMS = "SHA256SUMS"
GOLDEN_BATCH_ROWS = 8
GOLDEN_TOLERANCE = 1e-4  # another processor may round differently; another model differs by far


class ArtifactError(ValueError):
    """The folder is not a whole model of ours, or not the one whose digest was given."""


def save_model(folder: Path, model: VAE, golden_x: Shaped[Tensor, "rows features"]) -> str:
    """Write the model and seal the folder; return the digest.

    `golden_x` is a few rows whose features, as a CPU computes them, are stored too, to be replayed
    at every load. To add files of your own, write them into the folder first, or call `seal` again
    afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    write_durably(folder / "model.safetensors", safetensors.save(weights))
    config = {"format": FORMAT, "format_version": VERSION, "model": model.config.to_mapping()}
    write_durably(folder / "config.json", _json(config))
    on_host = copy.deepcopy(model).cpu()
    mean, stddev = encode(on_host, golden_x.cpu(), batch_rows=GOLDEN_BATCH_ROWS)
    golden = {
        "dtype": str(golden_x.dtype).removeprefix("torch."),
        "x": [
            [None if math.isnan(cell) else cell for cell in row] for row in golden_x.tolist()
        ],
        "mean": mean.tolist(),
        "stddev": stddev.tolist(),
    }
    write_durably(folder / "golden.json", _json(golden))
    return seal(folder)


def seal(folder: Path) -> str:
    """Write SHA256SUMS over every other file of the folder; return the digest."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    write_durably(folder / SUMS, "".join(lines).encode())
    sync_folder(folder)
    return sha256_of(folder / SUMS)


def verify(folder: Path, digest: str | None) -> None:
    """Check every byte of the folder against its sums, and the sums against `digest` if given.

    Raises:
        ArtifactError: something is absent, changed, or there though no sum names it. All of it
            is listed.
    """
    try:
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        listed = {name: sha256 for sha256, name in lines}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} has no readable {SUMS}: {error}") from error
    faults = []
    if digest is not None and sha256_of(folder / SUMS) != digest:
        faults.append(f"{SUMS} is not the one with digest {digest}")
    present = {path.name for path in folder.iterdir()} - {SUMS}
    faults += [f"{name} is absent" for name in sorted(listed.keys() - present)]
    faults += [f"{name} is in no sum" for name in sorted(present - listed.keys())]
    faults += [
        f"{name} was changed"
        for name in sorted(present & listed.keys())
        if (folder / name).is_symlink() or sha256_of(folder / name) != listed[name]
    ]
    if faults:
        raise ArtifactError(
            f"{folder} is not the model that was sealed:\n  "
            + "\n  ".join(faults)
            + "\nFetch it again from the registry, or register what is there as a new version."
        )


def load_model(folder: Path, *, digest: str | None = None) -> VAE:
    """Verify, then build the model and replay its golden rows. No code from the folder runs.

    Raises:
        ArtifactError: see `verify`; or the format is unknown, the weights do not fit the
            configuration, or the golden rows give other features here.
    """
    verify(folder, digest)
    config = json.loads((folder / "config.json").read_bytes())
    if config.get("format") != FORMAT or config.get("format_version", 0) > VERSION:
        raise ArtifactError(
            f"{folder} is {config.get('format')!r} version {config.get('format_version')}; "
            f"this code reads {FORMAT!r} up to version {VERSION}."
        )
    model_config = ModelConfig.from_mapping(config["model"], source=str(folder / "config.json"))
    model = build_model(model_config, seed=0)
    try:
        weights = safetensors.load_file(folder / "model.safetensors")
        model.load_state_dict(paced(model, weights), strict=True)
    except RuntimeError as error:
        raise ArtifactError(f"{folder}: weights do not fit config.json: {error}") from error
    model.eval()
    _replay(folder, model)
    return model


def _replay(folder: Path, model: VAE) -> None:
    golden = json.loads((folder / "golden.json").read_bytes())
    cells = [[math.nan if cell is None else cell for cell in row] for row in golden["x"]]
    x = torch.tensor(cells, dtype=getattr(torch, golden["dtype"]))
    found = encode(model, x, batch_rows=GOLDEN_BATCH_ROWS)
    for name, here in zip(("mean", "stddev"), found, strict=True):
        gap = _largest_gap(here, torch.tensor(golden[name]))
        if not gap <= GOLDEN_TOLERANCE:
            raise ArtifactError(
                f"{folder}: {name} of the golden rows differs by {gap:.3g} from what was stored; "
                f"this installation computes other features. Compare its torch with the one in "
                f"the model card."
            )


def _largest_gap(here: Float[Tensor, "rows latents"], stored: Tensor) -> float:
    """Largest difference, relative where numbers are above 1."""
    return ((here - stored).abs() / stored.abs().clamp(min=1)).max().item()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
