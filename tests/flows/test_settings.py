import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.working_copy import working_copy
from flows.runs import RunFolder
from flows.settings import Home, HomeError, check_registry, resolve_home

BUCKET = "s3://bucket/team/home"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "cache"


def test_a_home_is_a_folder_or_a_place_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = resolve_home(BUCKET)
    assert there == resolve_home(f"{BUCKET}/") == Home(working_copy(BUCKET))
    assert there.address == BUCKET
    assert there.artifacts == f"{BUCKET}/mlartifacts"
    assert Home(there.root).address == BUCKET  # a path says it, too: workers get one

    here = resolve_home(tmp_path / "home")
    assert here.address == str(here.root) == str(tmp_path / "home")
    monkeypatch.setenv("LATENTS_HOME", BUCKET)
    assert resolve_home(None) == there


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(HomeError, match="credentials come from the environment") as refused:
        resolve_home("s3://key:canary@bucket/home")
    assert "canary" not in str(refused.value)


def test_a_home_in_a_bucket_needs_a_registry_that_others_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_registry(resolve_home(tmp_path))
    home = resolve_home(BUCKET)
    with pytest.raises(
        HomeError, match=f"^{BUCKET} is for several machines, and without MLFLOW"
    ):
        check_registry(home)
    with pytest.raises(HomeError):
        assert home.tracking_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_registry(home)
    assert home.tracking_uri == "http://127.0.0.1:5000"


def test_a_command_says_so_before_it_works() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "mnist", "--home", BUCKET],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"},
    )
    assert done.returncode == 2
    assert "MLFLOW_TRACKING_URI" in done.stderr


def test_a_run_finds_its_snapshot_wherever_its_home_was_moved(tmp_path: Path) -> None:
    for home in (tmp_path / "one", tmp_path / "two"):
        run = RunFolder(home / "runs" / "r")
        run.path.mkdir(parents=True)
        run.plan.write_text('{"spec": {"dataset": {"name": "t"}}, "fingerprint": "f"}')
        assert run.snapshot == home / "datasets" / "t" / "f"
