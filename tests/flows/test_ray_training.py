"""Ray Train: two workers, one of which is killed, learn what one process learns."""

import os
import signal
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

from flows.ingest import ingest_dataset
from flows.ray_training import on_gpus
from flows.runs import RunFolder, folder_of, read_metrics, read_record
from flows.settings import Home
from flows.spec import SpecError, load_spec
from flows.train import train_model
from tests.faults.effort import WHOLE

SETTINGS = ["training.epochs=60", "training.patience=1000", "model.hidden=[16]"]


def kill_a_worker(checkpoints: Path, killed: list[int]) -> None:
    """Once there is something to resume from."""
    end = monotonic() + 120
    while monotonic() < end and not list(checkpoints.glob("step-*")):
        sleep(0.05)
    workers = [pid for pid in descendants(os.getpid()) if "TrainWorker" in command(pid)]
    for worker in workers[:1]:
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8")


def test_workers_ask_for_a_gpu_each_where_the_spec_says_so_or_there_are_enough() -> None:
    assert on_gpus("cuda", 2, 2)
    assert on_gpus("auto", 2, 3)
    assert not on_gpus("auto", 2, 1)
    assert not on_gpus("cpu", 2, 8)
    with pytest.raises(SpecError, match="'cuda' for 2 workers, and Ray's cluster has 1 GPUs"):
        on_gpus("cuda", 2, 1)


@pytest.mark.skipif(not WHOLE, reason="two starts of Ray's workers: runs in `make faults`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")  # of its own settings
def test_a_killed_worker_costs_a_restart_and_nothing_else(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    curves = []
    killed: list[int] = []
    for engine, processes in (("local", 1), ("ray", 2)):
        home = Home(tmp_path / engine)
        execution = [f"execution.engine={engine}", f"execution.processes={processes}"]
        spec = load_spec(str(digits), [*SETTINGS, *execution])
        snapshot = ingest_dataset(load_spec(str(digits)), home).value
        folder = folder_of(spec, home, snapshot["fingerprint"])
        if engine == "ray":
            killer = threading.Thread(target=kill_a_worker, args=(folder.checkpoints, killed))
            killer.start()
        path = train_model(spec, home, snapshot["path"]).value["path"]
        curves.append(
            [m["valid/elbo_nats"] for m in read_metrics(RunFolder(Path(path)).metrics)]
        )
    killer.join()

    assert len(killed) == 1
    assert read_record(folder.record("trained"))["resumed"] == 1
    assert len(curves[0]) > 5
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
