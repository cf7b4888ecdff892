"""Several processes that train together, as a user starts them; what becomes of their errors."""

import os
import signal
import threading
from pathlib import Path

import pytest

from flows.ingest import ingest_dataset
from flows.ranks import RankError, spawned
from flows.runs import RunFolder, read_metrics
from flows.settings import Home
from flows.spec import load_spec
from flows.stopping import Stop
from flows.train import train_model
from vae_engine.distributed import Ranks
from vae_engine.divergence import DivergedError


def diverge(ranks: Ranks, stop: Stop) -> None:
    if not ranks.leads:
        raise DivergedError("at step 3")
    ranks.wait()


def die(ranks: Ranks, stop: Stop) -> None:
    if not ranks.leads:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait()


def work_until_told(ranks: Ranks, stop: Stop) -> None:
    while not ranks.any(stop.is_set()):
        pass


def test_an_error_of_a_rank_is_raised_here_and_ends_all() -> None:
    with pytest.raises(DivergedError, match="at step 3"):
        spawned(diverge, 2, threading.Event())


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RankError, match=r"rank 1 of 2 died \(exit code -9\); run the same"):
        spawned(die, 2, threading.Event())


def test_ranks_stop_when_they_are_told() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()

    spawned(work_until_told, 2, stop)


def test_two_processes_learn_what_one_learns(digits: Path, tmp_path: Path) -> None:
    curves = []
    for processes in (1, 2):
        home = Home(tmp_path / str(processes))
        settings = ["training.epochs=3", f"execution.processes={processes}"]
        spec = load_spec(str(digits), settings)
        trained = train_model(spec, home, ingest_dataset(spec, home).value["path"])
        assert not trained.reused
        folder = RunFolder(Path(trained.value["path"]))
        assert (folder.model / "SHA256SUMS").exists()
        curves.append([m["valid/elbo_nats"] for m in read_metrics(folder.metrics)])

    assert len(curves[0]) > 0
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
