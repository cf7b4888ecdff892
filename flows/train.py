"""Stage 2: fit the preprocessor and the model, resume where a killed run stopped, keep the best.

The same command finds the same folder (`flows.runs.folder_of`), finished or half way.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor

from data.durable import fsync_folder, room_in, write_durably
from data.preprocessing import Preprocessor, check_splits, fit_preprocessor
from data.publication import canonical_json, locked, replace_file
from data.snapshot import Snapshot, open_snapshot
from flows import handoff
from flows.card import model_card
from flows.handoff import Rows
from flows.progress import advance
from flows.ranks import spawned
from flows.rewind import reports, rewind
from flows.run_copies import (
    Uploads,
    bring_checkpoint,
    bring_run,
    bring_training,
    forget_checkpoint,
    share_training,
)
from flows.runs import RunFolder, Stage, folder_of, once, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec, TrainingSection
from flows.stopping import Stop, to_a_boundary, turn_on, until
from flows.threads import pinned_threads
from flows.training_rows import TrainingRows, training_rows
from vae_engine import artifact, checkpoint
from vae_engine.config import ModelConfig, TrainingPlan
from vae_engine.distributed import ALONE, Ranks
from vae_engine.stopping import EarlyStopping
from vae_engine.training import Batch, StepReport, TrainState, new_state
from vae_engine.validation import validate

logger = logging.getLogger(__name__)

GOLDEN_ROWS = 8  # stored with the model, replayed at every load
MIN_REPORT_STEPS, MAX_REPORT_STEPS = 50, 2000  # between two validations


@dataclass
class Progress:
    """What a training needs to go on, beside the state of the model."""

    stopping: EarlyStopping
    train_s: float = 0.0
    resumed: int = 0
    rewound_at: int | None = None  # the step at which it was seen to explode, the first time
    since: float = field(default_factory=perf_counter)

    def lap(self) -> None:
        """Count the time since the last lap, or since the start, as time of training."""
        now = perf_counter()
        self.train_s += now - self.since
        self.since = now

    @classmethod
    def of(cls, saved: Mapping[str, Any] | None, plan: TrainingPlan) -> Self:
        """Begin, or go on where a checkpoint left off."""
        if saved is None:
            return cls(EarlyStopping(plan.patience, plan.warmup_steps))
        stopping = EarlyStopping.from_mapping(
            saved["stopping"], plan.patience, plan.warmup_steps
        )
        back = saved.get("rewound_at")  # older checkpoints do not say
        return cls(stopping, saved["train_s"], saved["resumed"] + 1, back)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "stopping": self.stopping.to_mapping(),
            "train_s": self.train_s,
            "resumed": self.resumed,
            "rewound_at": self.rewound_at,
        }


def train_model(spec: Spec, home: Home, snapshot_path: str) -> Stage:
    """Train the model of the spec on a snapshot, or find it trained.

    Raises:
        vae_engine.divergence.DivergedError: a bound or gradient is not finite, or the objective
            has exploded twice; the last checkpoint is good, nothing is registered.
    """
    started = perf_counter()
    snapshot = open_snapshot(Path(snapshot_path))
    folder = folder_of(spec, home, snapshot.fingerprint)
    record = folder.record("trained")
    with locked(folder.path / ".lock"):
        bring_run(folder)
    was_there = record.exists()
    launched = spec.execution.processes > 1 and not was_there
    if launched:
        _launch(spec, home, snapshot_path, folder)
    with locked(folder.path / ".lock"):  # a twin waits, then finds the record
        stage = once("train", record, lambda: _train(spec, home, snapshot, folder))
        bring_training(folder, stage.value["digest"])
        if not was_there:
            forget_checkpoint(folder)
    value = {**stage.value, "path": str(folder.path)}
    elapsed_s = perf_counter() - started
    return Stage("train", value, reused=stage.reused and not launched, elapsed_s=elapsed_s)


def _launch(spec: Spec, home: Home, snapshot_path: str, folder: RunFolder) -> None:
    """Train by several processes, of this machine or of Ray's."""
    work = partial(train_together, spec, home, snapshot_path)
    if spec.execution.engine == "ray":
        from flows.ray_training import trained_on_ray

        trained_on_ray(work, spec.execution, spec.training.device, folder.path)
    else:
        to_a_boundary(partial(spawned, work, spec.execution.processes))


def train_together(
    spec: Spec, home: Home, snapshot_path: str, ranks: Ranks, stop: Stop
) -> None:
    """Train as one of several processes, each of which calls this; leave the record behind.

    Where `stop` is set in one of them, all end at their next report, and no record is left.
    """
    snapshot = open_snapshot(Path(snapshot_path))
    folder = folder_of(spec, home, snapshot.fingerprint)
    with locked(folder.path / ".lock") if ranks.leads else nullcontext():
        if ranks.any(folder.record("trained").exists()):
            return
        done = _train(spec, home, snapshot, folder, ranks, stop)
        if ranks.leads and not stop.is_set():
            replace_file(folder.record("trained"), canonical_json(done).encode())


def _train(
    spec: Spec,
    home: Home,
    snapshot: Snapshot,
    folder: RunFolder,
    ranks: Ranks = ALONE,
    stop: Stop | None = None,
) -> Mapping[str, Any]:
    """Prepare, fit and, as the rank that leads, write the artifact; alone, heed the main thread."""
    check_splits(snapshot)
    preprocessor = fit_preprocessor(snapshot)
    if ranks.leads:
        bring_checkpoint(folder)
    else:
        ranks.wait()  # until it is decided, and written down, where the rows are
    train = training_rows(
        snapshot, preprocessor, as_begun(spec.training, folder), home.root / "packed"
    )
    valid = handoff.load_rows(snapshot, preprocessor, "valid", limit=handoff.VALID_ROWS)
    config = handoff.model_config(spec, preprocessor, snapshot)
    plan = handoff.training_plan(spec, config, rows=len(train))
    if ranks.leads:
        if train.packed:
            logger.warning("%s train rows do not fit into memory: packed on disk", len(train))
        replace_file(folder.preprocessor, preprocessor.to_json().encode())
        decided = _plan(spec, snapshot, config, plan) | {"packed": train.packed}
        replace_file(folder.plan, canonical_json(decided).encode())
        ranks.wait()

    sample = train.sample()
    statistics = handoff.statistics(config, sample)
    golden = sample[:GOLDEN_ROWS].clone()
    del sample
    cores = torch.get_num_threads()
    begin = partial(
        new_state,
        config,
        plan,
        statistics,
        rows=len(train),
        ranks=ranks,
        workers=cores,
        compiled=spec.execution.compiled,
    )
    state = begin()
    saved = checkpoint.load_latest(folder.checkpoints, state)
    progress = Progress.of(saved, plan)
    if saved is not None:
        logger.warning("resuming at step %d", state.step)
    train = train.resident(plan.device)
    ranks.wait()  # until all have read the checkpoint that the next one may replace
    if ranks.leads:
        _forget_after(folder.metrics, state.step)

    def work(stop: Stop) -> None:
        with pinned_threads(plan, state.model):
            _fit(state, begin, train, valid, folder, progress, stop)

    with turn_on(plan.device, home), room_in(folder.path):
        if stop is None:
            to_a_boundary(work)
        else:
            work(stop)
    if not ranks.leads or (stop is not None and stop.is_set()):
        return {}
    steps = state.step
    checkpoint.load_latest(folder.best, state)
    digest = _save_artifact(folder, state, snapshot, preprocessor, golden)
    share_training(folder, digest)
    return {
        "run_id": folder.run_id,
        "digest": digest,
        "steps": steps,
        "best_step": progress.stopping.best_step,
        "valid_bound_nats": progress.stopping.best_nats,
        "resumed": progress.resumed,
        "rewound_at": progress.rewound_at,
        "batch_parts": state.parts.count,
    }


def as_begun(wanted: TrainingSection, folder: RunFolder) -> TrainingSection:
    """The settings, with rows in memory or on disk as they were when this run began."""
    if not folder.plan.exists():
        return wanted
    packed = read_record(folder.plan).get("packed", False)  # before there was a choice
    return wanted.model_copy(update={"memory_bytes": 0 if packed else sys.maxsize})


def _fit(
    state: TrainState,
    begin: Callable[[], TrainState],
    train: TrainingRows,
    valid: Rows,
    folder: RunFolder,
    progress: Progress,
    stop: Stop,
) -> None:
    """Step, evaluate, keep the best, log, save, stop?: until the plan or the patience ends.

    Where `stop` is set, the end is the next step (of several ranks, the next report), and what
    there is by then is saved.
    """
    plan, ranks, uploads = state.plan, state.ranks, Uploads(folder)
    total = plan.total_steps(len(train))
    progress.since = perf_counter()

    def batches() -> Iterator[Batch]:
        rest = train.minibatches(plan, state.step)
        return until(stop, rest) if ranks.world == 1 else rest

    def go_back() -> None:
        progress.rewound_at = state.step + 1
        ranks.wait()  # until the best weights are whole on disk
        rewind(state, folder, begin)
        ranks.wait()  # until all have read them
        if ranks.leads:
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
            checkpoint.save(folder.checkpoints, state, progress.to_mapping())
            _forget_after(folder.metrics, state.step)
            uploads.upload()

    every = report_every(len(train), plan)
    for report in reports(state, batches, report_every=every, go_back=go_back):
        if ranks.leads:
            valid_nats = _record(state, report, valid, folder, progress, len(train))
            advance("train", state.step, total, f"valid ELBO {valid_nats:.2f} nats")
            uploads.offer()
        if ranks.any(stop.is_set() or progress.stopping.exhausted):
            break
    if stop.is_set() and ranks.leads:
        checkpoint.save(folder.checkpoints, state, progress.to_mapping())
        uploads.upload()
        logger.warning("stopped at step %d of %d; run again to resume there", state.step, total)


def _record(
    state: TrainState,
    report: StepReport,
    valid: Rows,
    folder: RunFolder,
    progress: Progress,
    rows: int,
) -> float:
    """Evaluate, keep the weights if they are the best so far, log, save; return the valid ELBO."""
    plan = state.plan
    found = validate(state.averaged_model(), valid.batches(), plan)
    if progress.stopping.offer(state.step, found.judged.mean):
        checkpoint.save(folder.best, state, {})
    progress.lap()
    _log(
        folder.metrics,
        {
            "step": state.step,
            "time_ms": int(time.time() * 1000),
            "epoch": state.step * plan.batch_rows / rows,
            "train/elbo_nats": report.elbo_nats,
            "train/log_likelihood_nats": report.log_likelihood_nats,
            "train/kl_nats": report.kl_nats,
            "train/grad_norm": report.grad_norm,
            "train/learning_rate": report.learning_rate,
            "train/batch_parts": report.parts,
            **found.metrics(),
            "time/train_s": progress.train_s,
        },
    )
    checkpoint.save(folder.checkpoints, state, progress.to_mapping())
    return found.elbo.mean


def report_every(rows: int, plan: TrainingPlan) -> int:
    """Steps between two validations: an epoch, within bounds; divides the length of the run."""
    steps_an_epoch = -(-rows // plan.batch_rows)
    total = plan.total_steps(rows)
    wanted = min(max(steps_an_epoch, MIN_REPORT_STEPS), MAX_REPORT_STEPS, total)
    intervals = max(1, total // wanted)
    while total % intervals:
        intervals += 1
    return total // intervals


def _log(path: Path, row: Mapping[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _forget_after(metrics: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that training resumes from."""
    kept = [row for row in read_metrics(metrics) if row["step"] <= step]
    replace_file(metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _plan(
    spec: Spec, snapshot: Snapshot, config: ModelConfig, plan: TrainingPlan
) -> dict[str, Any]:
    """Everything that was decided, for the record and for MLflow's params."""
    model = {key: value for key, value in config.to_mapping().items() if key != "columns"}
    return {
        "fingerprint": snapshot.fingerprint,
        "source": spec.dataset.source,
        "rows": snapshot.rows,
        "spec": spec.model_dump(mode="json"),
        "model": config.to_mapping(),
        "training": plan.to_mapping(),
        "params": {
            "dataset": snapshot.name,
            "fingerprint": snapshot.fingerprint,
            **{f"model.{key}": value for key, value in model.items()},
            **{f"training.{key}": value for key, value in plan.to_mapping().items()},
        },
    }


def _save_artifact(
    folder: RunFolder,
    state: TrainState,
    snapshot: Snapshot,
    preprocessor: Preprocessor,
    golden: Tensor,
) -> str:
    """Write the artifact of the best weights beside its place, and give it its name whole."""
    staging = folder.path / ".model"
    for stale in (staging, folder.model):  # of a run that was killed before its record
        shutil.rmtree(stale, ignore_errors=True)
    staging.mkdir()
    documents = {
        "contract.json": snapshot.contract.to_json(),
        "preprocessor.json": preprocessor.to_json(),
        "MODEL_CARD.md": model_card(state.model.config, state.plan, snapshot, folder.run_id),
    }
    for name, text in documents.items():
        write_durably(staging / name, text.encode())
    digest = artifact.save_model(staging, state.averaged_model(), golden)
    staging.rename(folder.model)
    fsync_folder(folder.path)
    return digest
