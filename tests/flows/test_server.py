"""The Prefect server of a run that names none: it starts beside the run, and ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from flows.exits import TERMINATED
from tests.flows.stack import wait_for


def test_a_run_that_is_terminated_while_its_server_starts_takes_it_along(
    tmp_path: Path,
) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a,b\n" + "".join(f"{k},{k % 7}\n" for k in range(200)))
    command = [sys.executable, "-m", "flows.cli", "run", str(source), "--home", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def server() -> int | None:
        return next((one for one in children(run.pid) if "uvicorn" in command_of(one)), None)

    started = wait_for(server, "Prefect's server to start", timeout_s=60)
    run.send_signal(signal.SIGTERM)

    assert run.wait(timeout=60) == TERMINATED
    wait_for(lambda: not command_of(started), "Prefect's server to end", timeout_s=10)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends as we read
        return ""
