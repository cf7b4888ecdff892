"""Many small runs under one home, with kills, twins and new rows; in the end, nothing is amiss.

    python -m tests.faults.soak --runs 200 [--seed 0] [--home FOLDER]

Every run is a fork of this process, which has everything imported. A run takes the data as they
are then; some runs are killed at a moment, some have a twin, and now and then rows are appended
or the settings change. Whatever is killed is run again, as a scheduler would.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch

from data.features import latest_of, list_publications, open_features
from data.garbage import collect, stale_staging, stale_temporaries
from data.quarantine import VARIABLE as QUARANTINE
from data.snapshot import open_snapshot
from flows import tracking
from flows.settings import Home, prepare_environment
from tests.faults.crashes import begun, killed, succeeds, wait
from tests.faults.small import published, spec_of, table

FIRST_ROWS, APPENDED_ROWS, PART_ROWS = 300, 60, 100
APPEND_EVERY, CHANGE_EVERY = 5, 25  # runs
KILL_SHARE, TWIN_SHARE = 0.4, 0.2
LONGEST_S = 6.0  # after its start, when a run may be killed


def soak(runs: int, home: Home, *, seed: int) -> Counter[str]:
    """Do `runs` runs, then look at everything; what happened, counted.

    Raises:
        AssertionError: something is amiss in the end.
    """
    chances, happened = random.Random(seed), Counter[str]()
    source, rows = home.root.parent / "small.parquet", FIRST_ROWS
    epochs, longest_s = 20, LONGEST_S
    for number in range(runs):
        if number % APPEND_EVERY == 0:
            rows += APPENDED_ROWS if number else 0
            pq.write_table(table(rows), source)
            happened["appended"] += bool(number)
        if number and number % CHANGE_EVERY == 0:
            epochs += 5
            happened["settings changed"] += 1
        run = partial(_run, source, home, f"training.epochs={epochs}")
        started = time.monotonic()
        children = [begun(run)]
        if chances.random() < TWIN_SHARE:
            children.append(begun(run))
            happened["twins"] += 1
        if chances.random() < KILL_SHARE:
            time.sleep(chances.random() * longest_s)
            os.kill(children[0], signal.SIGKILL)
        statuses = [wait(child) for child in children]
        assert all(status == 0 or killed(status) for status in statuses), statuses
        happened["killed"] += sum(map(killed, statuses))
        if any(map(killed, statuses)):
            succeeds(run)
        else:
            longest_s = 1.2 * (time.monotonic() - started)  # so that kills fall within a run
        happened["runs"] += 1
    succeeds(partial(_examine, home, rows))
    happened["publications"] = len(list_publications(home.root))
    return happened


def _run(source: Path, home: Home, setting: str) -> None:
    import data.snapshot

    data.snapshot.PART_ROWS = PART_ROWS
    published(spec_of(source, setting), home)


def _examine(home: Home, rows: int) -> None:
    """Every publication verifies, each row is there once, MLflow and disk agree, nothing is left."""
    publications = list_publications(home.root)
    for found in publications:
        features = open_features(
            "small", home=home.root, model_version=found.model_version,
            publication=found.publication, verify=True,
        )  # fmt: skip
        assert features.to_arrow(["id"])["id"].to_pylist() == list(range(features.rows))
    assert open_features("small", home=home.root).rows == rows
    for manifest in home.datasets.glob("small/*/manifest.json"):
        open_snapshot(manifest.parent).verify()

    versions = tracking.versions(home, "small")
    assert len({version.digest for version in versions}) == len(versions)
    runs = {json.loads(path.read_text())["digest"] for path in home.runs.glob("*/trained.json")}
    assert {version.digest for version in versions} == runs
    by_version = latest_of(home.features, "small")["versions"]
    for version in versions:
        assert version.tags.get("latents.publication") == by_version.get(str(version.version))
    (champion,) = (version for version in versions if "champion" in version.aliases)
    assert latest_of(home.features, "small")["champion"]["model_version"] == champion.version
    assert tracking.champions(home, "small")[-1] == champion.version

    for store in (home.datasets, home.features, home.root / "packed"):
        collect(stale_staging(store, hours=-1))
    collect(stale_temporaries(home.root, hours=-1))
    left = [
        *home.root.rglob(".tmp-*"),
        *home.root.rglob(".step-*"),
        *home.root.rglob(".fetch-*"),
    ]
    assert left == []


def children_left() -> list[str]:
    """The processes that this one has started and that still live."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [child for path in listed for child in path.read_text().split()]


def warm_up(folder: Path) -> None:
    """Import what the stages import when they first run: each fork has it then."""
    home = Home(folder / "warm")
    pq.write_table(table(FIRST_ROWS), folder / "warm.parquet")
    published(spec_of(folder / "warm.parquet", "dataset.name=warm"), home)
    shutil.rmtree(home.root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="a new folder that is kept; else none is")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    folder = chosen.home or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    home = Home(folder / "home")
    prepare_environment(home)
    os.environ[QUARANTINE] = "off"
    started = time.monotonic()
    try:
        warm_up(folder)
        happened = soak(chosen.runs, home, seed=chosen.seed)
    finally:
        if chosen.home is None:
            shutil.rmtree(folder, ignore_errors=True)
    assert not children_left()
    for what, number in sorted(happened.items()):
        sys.stdout.write(f"{what:18} {number:6}\n")
    sys.stdout.write(f"nothing amiss in {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
