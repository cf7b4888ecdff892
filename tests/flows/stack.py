"""The servers that `latents up` runs, as a test sees them: addresses, and questions to them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

START_S = 240  # on a busy machine
RUN_S = 180


@dataclass(frozen=True)
class Stack:
    """Real servers and a real worker, on loopback, for one home."""

    home: Path
    prefect: str  # the address of its API
    mlflow: str

    def ask(self, path: str, body: Any = None) -> Any:
        """POST to Prefect's API (GET without a body), and parse the answer."""
        request = urllib.request.Request(
            f"{self.prefect}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        asks_only = body is None or path.endswith("/filter")
        for wait_s in (0.5, 2.0, None):  # where Prefect's own client asks again
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                break
            except TimeoutError:
                if not asks_only or wait_s is None:
                    raise
            except urllib.error.HTTPError as error:  # 503: sqlite was locked
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or wait_s is None:
                    raise AssertionError(f"{error.code}: {error.read().decode()}") from None
            time.sleep(wait_s)
        return json.loads(text) if text else None

    def deployment(self, name: str, flow: str = "latent-features") -> dict[str, Any]:
        return dict(self.ask(f"deployments/name/{flow}/{name}"))

    def runs(self, deployment: str, state: str | None = None) -> list[dict[str, Any]]:
        """The runs of a deployment, in the order in which they were to start."""
        wanted: dict[str, Any] = {"deployment_id": {"any_": [deployment]}}
        if state is not None:
            wanted["state"] = {"type": {"any_": [state]}}
        body = {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC", "limit": 50}
        return list(self.ask("flow_runs/filter", body))

    def start(self, deployment: str) -> str:
        """Run a deployment now; give the run's id."""
        made = self.ask(f"deployments/{deployment}/create_flow_run", {})
        return str(made["id"])

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for a run to end, however it ends."""
        return wait_for(
            lambda: (
                found
                if (found := self.ask(f"flow_runs/{run}"))["state_type"]
                in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
                else None
            ),
            f"the end of run {run}",
        )

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """What is pinned up about a run, by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 100}
        return {found["key"]: found for found in self.ask("artifacts/filter", body)}

    def events(self, *prefixes: str) -> list[dict[str, Any]]:
        body = {"filter": {"event": {"prefix": list(prefixes)}}, "limit": 50}
        return list(self.ask("events/filter", body)["events"])


def wait_for(look: Callable[[], Any], what: str, timeout_s: float = RUN_S) -> Any:
    """Look again and again until there is something; give it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come in {timeout_s:.0f} s")


@contextmanager
def latents_up(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run `latents up` on free ports as a user does, and stop it with SIGTERM."""
    environment = {
        k: v
        for k, v in (os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {})).items()
        if k not in {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}
    }
    command = [sys.executable, "-m", "flows.cli", "up", "--json", "--watch-every", "1"]
    errors = home.with_name(f"{home.name}-up.log")
    home.parent.mkdir(parents=True, exist_ok=True)
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--home", str(home)], env=environment, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        text = b""
        for line in process.stdout:  # ends at the closing brace, or when the process does
            text += line
            if line == b"}\n":
                break
        assert text.endswith(b"}\n"), errors.read_text()
        addresses = json.loads(text)
        yield Stack(home, f"{addresses['prefect']}/api", addresses["mlflow"])
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=200)
        process.stdout.close()
        assert code == 0, errors.read_text()
