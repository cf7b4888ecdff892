"""Checkpoints: safetensors and JSON, whole or absent, the last two kept.

A checkpoint is a folder `step-<number>`:

    tensors.safetensors   weights `model.*`, optimizer moments `optimizer.<parameter>.*` and,
                          where the plan keeps it, the weights' moving average `average.*`
    state.json            format, step, sha256 of the tensors, model configuration, plan, `course`
                          (what befell the run: parts of a batch, factor of the rate, the watch
                          over the objective), and `extra`: whatever the caller needs to go on

It is written beside its place, flushed to disk, and renamed. Since noise and batch order are
functions of the step, nothing else is needed to go on bit for bit.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import torch as safetensors
from torch import Tensor

from vae_engine.explosion import Watch
from vae_engine.files import make_folder, sha256_of, sync_folder, write_durably
from vae_engine.training import TrainState

FORMAT = "latent-features/checkpoint"
VERSION = 1
KEPT = 2
LENGTH = (
    "epochs",
    "steps",
    "patience",
)  # a run may be resumed for longer; nothing else may differ


class CheckpointError(ValueError):
    """A checkpoint belongs to another model or plan, or to newer code."""


def save(folder: Path, state: TrainState, extra: Mapping[str, Any]) -> Path:
    """Write the state after `state.step` steps; return the folder of the checkpoint.

    One process at a time may write to `folder`: what another left half done goes.

    Raises:
        DivergedError: steps that a device was told to take turn out not to be finite.
    """
    state.settle()
    make_folder(folder)
    for stale in folder.glob(".step-*"):
        shutil.rmtree(stale)
    final = folder / f"step-{state.step:09d}"
    staging = folder / f".{final.name}"
    try:
        _write(staging, state, extra)
    except OSError:  # a full disk is not made fuller
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if final.exists():  # the same step again, after a resume from an earlier one
        shutil.rmtree(final)
    staging.rename(final)
    sync_folder(folder)
    for old in _checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)
    return final


def _write(staging: Path, state: TrainState, extra: Mapping[str, Any]) -> None:
    staging.mkdir()
    write_durably(staging / "tensors.safetensors", safetensors.save(_tensors(state)))
    description = {
        "format": FORMAT,
        "format_version": VERSION,
        "step": state.step,
        "tensors_sha256": sha256_of(staging / "tensors.safetensors"),
        "config": state.model.config.to_mapping(),
        "plan": state.plan.to_mapping(),
        "course": {
            "parts": state.parts.count,
            "rate_factor": state.rate_factor,
            "watch": dataclasses.asdict(state.watch),
        },
        "extra": dict(extra),
    }
    write_durably(staging / "state.json", json.dumps(description).encode())
    sync_folder(staging)


def load_latest(folder: Path, state: TrainState) -> dict[str, Any] | None:
    """Bring `state` to the newest whole checkpoint; return its `extra`, or None without one.

    A checkpoint whose bytes are damaged is passed over for the one before it.

    Raises:
        CheckpointError: the newest whole checkpoint is of another model, plan or format.
    """
    for candidate in _checkpoints(folder):
        description = _description(candidate)
        if description is None:
            continue
        _refuse_another(candidate, description, state)
        _restore(state, safetensors.load_file(candidate / "tensors.safetensors"))
        state.step = description["step"]
        _set_course(state, description.get("course"))  # older checkpoints have none
        extra: dict[str, Any] = description["extra"]
        return extra
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _description(checkpoint: Path) -> dict[str, Any] | None:
    """Read state.json; None where the checkpoint is not whole."""
    try:
        description: dict[str, Any] = json.loads((checkpoint / "state.json").read_bytes())
        whole = description["tensors_sha256"] == sha256_of(checkpoint / "tensors.safetensors")
    except (OSError, ValueError, KeyError):
        return None
    return description if whole else None


def _refuse_another(checkpoint: Path, description: dict[str, Any], state: TrainState) -> None:
    if description["format"] != FORMAT or description["format_version"] > VERSION:
        raise CheckpointError(
            f"{checkpoint} is {description['format']!r} version {description['format_version']}; "
            f"this code reads {FORMAT!r} up to version {VERSION}."
        )
    differing = [
        f"{name}.{key}"
        for name, ours in (("config", state.model.config), ("plan", state.plan))
        for key, value in json.loads(json.dumps(dataclasses.asdict(ours))).items()
        if key not in LENGTH and description[name].get(key) != value
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint} was written by another run: {', '.join(differing)} differ. Train in "
            f"another folder, or restore the settings of that run."
        )


def _set_course(state: TrainState, course: Mapping[str, Any] | None) -> None:
    if course is not None:
        state.parts.count = course["parts"]
        state.rate_factor = course["rate_factor"]
        state.watch = Watch(**course["watch"])


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {f"model.{name}": t for name, t in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    for name, average in (state.average or {}).items():
        average.copy_(tensors[f"average.{name}"])
    weights = {
        n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")
    }
    state.model.load_state_dict(weights, strict=True)
    moments: dict[int, dict[str, Tensor]] = {}
    for k, (name, _) in enumerate(state.model.named_parameters()):
        prefix = f"optimizer.{name}."
        moments[k] = {
            n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
        }
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
