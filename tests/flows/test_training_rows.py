"""Training from rows on disk: as good as from memory, and resumable in the midst of an epoch."""

from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from data.preprocessing import fit_preprocessor
from data.snapshot import open_snapshot
from flows import handoff, train
from flows.handoff import Rows
from flows.ingest import ingest_dataset
from flows.runs import RunFolder, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec, load_spec
from flows.train import train_model
from flows.training_rows import TrainingRows, available_bytes, fits, training_rows
from vae_engine import checkpoint
from vae_engine.config import TrainingPlan

SETTINGS = ["training.epochs=5", "training.patience=100", "model.hidden=[16]"]
ON_DISK = "training.memory_bytes=0"
EPOCH_STEPS = 21  # of the digits' train split, by default


def trained(spec: Spec, home: Home) -> RunFolder:
    snapshot = ingest_dataset(spec, home).value["path"]
    return RunFolder(Path(train_model(spec, home, snapshot).value["path"]))


def test_rows_on_disk_train_about_as_well_as_rows_in_memory(
    digits: Path, tmp_path: Path
) -> None:
    """Another order of the same rows is as much luck as another seed: so over three of them."""
    home = Home(tmp_path)

    def mean_elbo(*settings: str, packed: bool) -> float:
        runs = [
            trained(
                load_spec(str(digits), [*SETTINGS, *settings, f"training.seed={seed}"]), home
            )
            for seed in range(3)
        ]
        assert all(read_record(run.plan)["packed"] is packed for run in runs)
        return mean(read_record(run.record("trained"))["valid_bound_nats"] for run in runs)

    in_memory, on_disk = mean_elbo(packed=False), mean_elbo(ON_DISK, packed=True)
    assert on_disk == pytest.approx(in_memory, rel=0.02)
    assert list(home.root.glob("packed/digits/*/manifest.json"))


def test_killed_in_an_epoch_it_ends_in_the_weights_of_one_that_was_not(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(str(digits), [*SETTINGS, ON_DISK])
    monkeypatch.setattr(train, "report_every", lambda *_: 15)
    straight = trained(spec, Home(tmp_path / "straight"))
    home, save, saved = Home(tmp_path / "killed"), checkpoint.save, []

    def dying(folder: Path, state: Any, extra: dict[str, Any]) -> None:
        save(folder, state, extra)
        saved.append((folder.name, state.step))
        if saved.count(("checkpoints", 30)) == 1 and state.step == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        trained(spec, home)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = trained(spec, home)

    assert 30 % EPOCH_STEPS
    assert read_record(resumed.record("trained"))["resumed"] == 1
    sums = [(run.model / "SHA256SUMS").read_bytes() for run in (straight, resumed)]
    assert sums[0] == sums[1]
    assert [row["step"] for row in read_metrics(resumed.metrics)] == list(range(15, 106, 15))


def test_a_run_keeps_its_rows_where_they_were_when_it_began(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, home = load_spec(str(digits), SETTINGS), Home(tmp_path)
    monkeypatch.setattr("flows.training_rows.available_bytes", lambda: 0)
    first = trained(spec, home)
    first.record("trained").unlink()
    monkeypatch.setattr("flows.training_rows.available_bytes", lambda: 10**12)

    again = trained(spec, home)

    assert again.path == first.path
    assert read_record(again.plan)["packed"]


def test_every_row_comes_once_an_epoch_and_any_step_can_be_first(
    digits: Path, tmp_path: Path
) -> None:
    spec, home = load_spec(str(digits), [*SETTINGS, ON_DISK]), Home(tmp_path)
    snapshot = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
    preprocessor = fit_preprocessor(snapshot)
    rows = training_rows(snapshot, preprocessor, spec.training, tmp_path / "packed")
    config = handoff.model_config(spec, preprocessor, snapshot)
    plan = handoff.training_plan(spec, config, rows=len(rows))

    batches = list(rows.minibatches(plan, 0))

    in_memory = handoff.load_rows(snapshot, preprocessor, "train")
    assert len(batches) == plan.total_steps(len(rows)) == 5 * EPOCH_STEPS
    for epoch in range(5):
        of_epoch = batches[epoch * EPOCH_STEPS : (epoch + 1) * EPOCH_STEPS]
        keys = torch.cat([batch.row_keys for batch in of_epoch if batch.row_keys is not None])
        assert torch.equal(keys.sort().values, in_memory.row_keys.sort().values)
    for first in (1, 20, 33):
        later = islice(rows.minibatches(plan, first), 3)
        for ours, theirs in zip(later, batches[first:], strict=False):
            assert torch.equal(ours.x, theirs.x)


def test_rows_are_packed_where_they_take_more_than_half_of_what_is_free(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, home = load_spec(str(digits)), Home(tmp_path)
    snapshot = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
    preprocessor = fit_preprocessor(snapshot)
    size = 4 * snapshot.split_rows["train"] * 64

    def fit_in(free: int, *overrides: str) -> bool:
        monkeypatch.setattr("flows.training_rows.available_bytes", lambda: free)
        return fits(snapshot, preprocessor, load_spec(str(digits), overrides).training)

    assert fit_in(2 * size)
    assert not fit_in(2 * size - 1)
    assert fit_in(0, f"training.memory_bytes={size}")
    assert not fit_in(10 * size, f"training.memory_bytes={size - 1}")
    assert fit_in(0, "training.rows=100")


def test_available_memory_is_that_of_the_group_where_it_has_a_limit(tmp_path: Path) -> None:
    for folder in ("proc", "sys/fs/cgroup"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 200 kB\nMemAvailable:  100 kB\n")
    assert available_bytes(tmp_path) == 102_400

    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 102_400

    (tmp_path / "sys/fs/cgroup/memory.max").write_text("5000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("3000\n")
    assert available_bytes(tmp_path) == 2000


def test_some_rows_are_those_with_the_lowest_keys_however_they_are_read() -> None:
    x, keys = torch.arange(10.0)[:, None], torch.tensor([5, 3, 9, 1, 7, 2, 8, 0, 6, 4])
    rows = Rows(x, keys)

    assert rows.first(3).row_keys.tolist() == [0, 1, 2]
    assert len(TrainingRows(rows)) == 10
    assert TrainingRows(rows).sample() is x


def test_rows_stay_where_they_are_without_a_gpu() -> None:
    rows = TrainingRows(Rows(torch.zeros(3, 2), torch.arange(3)))

    assert rows.resident("cpu") is rows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bytes_are_resident_on_a_gpu_as_bytes_and_come_in_the_same_order() -> None:
    x = torch.arange(100, dtype=torch.uint8).view(50, 2)
    rows = TrainingRows(Rows(x, torch.arange(50)))
    there = rows.resident("cuda")
    plan = TrainingPlan(seed=1, steps=7, batch_rows=16)

    assert isinstance(there.source, Rows)
    assert (there.source.x.device.type, there.source.x.dtype) == ("cuda", torch.uint8)
    for batch, other in zip(rows.minibatches(plan, 0), there.minibatches(plan, 0), strict=True):
        assert torch.equal(batch.x, other.x.cpu())
