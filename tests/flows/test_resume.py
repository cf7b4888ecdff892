"""A training that was killed ends in the weights of one that was not, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flows.ingest import ingest_dataset
from flows.runs import RunFolder, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec, load_spec
from flows.train import train_model

CHILD = """
import sys
from pathlib import Path
from flows.ingest import ingest_dataset
from flows.settings import Home
from flows.spec import load_spec
from flows.train import train_model
import torch

torch.set_num_threads(1)
home, spec = Home(Path(sys.argv[1])), load_spec(sys.argv[2], sys.argv[3:])
print(train_model(spec, home, ingest_dataset(spec, home).value["path"]).value["path"])
"""
SETTINGS = ["training.epochs=24", "training.patience=100", "model.hidden=[64]"]


def trained(spec: Spec, home: Home) -> RunFolder:
    snapshot = ingest_dataset(spec, home).value["path"]
    return RunFolder(Path(train_model(spec, home, snapshot).value["path"]))


def test_killed_and_run_again_ends_in_the_same_weights(digits: Path, tmp_path: Path) -> None:
    spec = load_spec(str(digits), SETTINGS)
    straight = trained(spec, Home(tmp_path / "straight"))

    home = Home(tmp_path / "killed")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home.root), str(digits), *SETTINGS]
    )
    deadline = time.monotonic() + 120
    while len(list(home.runs.glob("*/checkpoints/step-*"))) < 2 and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not list(home.runs.glob("*/trained.json"))
    resumed = trained(spec, home)

    assert read_record(resumed.record("trained"))["resumed"] == 1
    assert (resumed.model / "SHA256SUMS").read_bytes() == (
        straight.model / "SHA256SUMS"
    ).read_bytes()
    steps = [row["step"] for row in read_metrics(resumed.metrics)]
    assert steps == [row["step"] for row in read_metrics(straight.metrics)]
