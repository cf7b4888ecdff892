"""Work is stopped at a boundary, whatever stops it, and goes on from there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.stopping import to_a_boundary, until
from tests.flows.stack import wait_for


def test_work_that_is_not_disturbed_gives_its_result() -> None:
    assert to_a_boundary(lambda stop: list(until(stop, range(4)))) == [0, 1, 2, 3]


def test_an_exception_of_the_work_is_the_callers() -> None:
    def work(stop: threading.Event) -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        to_a_boundary(work)


@pytest.mark.parametrize("receiver", ["process", "another thread"])
def test_a_signal_lets_the_step_end_first(receiver: str) -> None:
    """The handler raises in the main thread at once; the work ends when its step has.

    The system may hand a signal that is sent to the process to any of its threads.
    """
    begun = threading.Event()
    ended: list[int] = []

    def work(stop: threading.Event) -> None:
        for step in until(stop, range(20)):
            begun.set()
            time.sleep(1)
            ended.append(step)

    def raise_in_main(*_: object) -> None:
        raise KeyboardInterrupt

    def disturb() -> None:
        begun.wait()
        if receiver == "process":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_in_main)
    threading.Thread(target=disturb).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            to_a_boundary(work)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert ended == [0]


def train(digits: Path, home: Path, server: str) -> subprocess.Popen[bytes]:
    """Begin `latents train`, as a worker or a person does."""
    settings = ["training.epochs=24", "training.patience=1000", "model.hidden=[64]"]
    overrides = [text for setting in settings for text in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", "train", str(digits), "--json", *overrides]
    return subprocess.Popen(
        [*command, "--home", str(home)],
        env=os.environ | {"PREFECT_API_URL": server, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_terminated_it_saves_says_so_and_resumes(
    digits: Path, tmp_path: Path, prefect_server: str
) -> None:
    first = train(digits, tmp_path, prefect_server)
    wait_for(
        lambda: list(tmp_path.glob("runs/*/checkpoints/step-*")) or first.poll(), "a checkpoint"
    )
    first.send_signal(signal.SIGTERM)
    said = json.loads(first.communicate(timeout=200)[0])
    again = train(digits, tmp_path, prefect_server)
    again.communicate(timeout=200)

    assert (first.returncode, said["exit_code"]) == (143, 143)
    assert "run the same command again to resume" in said["error"]
    assert again.returncode == 0
    record = json.loads(next(tmp_path.glob("runs/*/trained.json")).read_text())
    assert record["resumed"] == 1
