"""RELIABILITY 2d, hash seed: what is published does not depend on the order of a set."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.faults.conftest import Cases
from tests.faults.effort import whole_or
from tests.faults.small import ROWS, contents, table

SEEDS = whole_or(("0", "1", "2"), ("0", "1"))
WORDS = ["ash", "birch", "cedar", "elm", "fir", None]
RUN = """
import sys
from pathlib import Path
from data.snapshot import open_snapshot
from flows.ingest import ingest_dataset
from flows.runs import read_record
from flows.settings import Home
from tests.faults.small import spec_of, trained
from tests.flows.test_encode import encoded

source, root = map(Path, sys.argv[1:])
spec, home = spec_of(source), Home(root)
run = trained(spec, home)
snapshot = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
digest = read_record(run.record("trained"))["digest"]
encoder = {"name": "small", "version": 1, "digest": digest, "champion": True}
encoded(home, snapshot, {**encoder, "folder": str(run.model)})
"""


def test_hash_seed(tmp_path: Path, cases: Cases) -> None:
    """Snapshot, model and publication, file for file, with their names, which are digests."""
    words = [WORDS[row * row % 11 % len(WORDS)] for row in range(ROWS)]
    rows = table().append_column("tree", [words]).append_column("bush", [words[::-1]])
    homes = []
    running = []
    for seed in SEEDS:
        home = tmp_path / seed / "home"
        home.parent.mkdir()
        pq.write_table(rows, home.parent / "small.parquet")
        command = [sys.executable, "-c", RUN, str(home.parent / "small.parquet"), str(home)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, env=environment))
        homes.append(home)
    assert [process.wait(120) for process in running] == [0] * len(SEEDS)
    cases("2d hash seed", len(SEEDS))

    first, *others = [made(home) for home in homes]
    assert any(name.endswith("manifest.json") for name in first)
    assert any(name.endswith("model.safetensors") for name in first)
    assert all(other == first for other in others)


def made(home: Path) -> dict[str, str]:
    """What is kept of a run, but for paths."""
    kept = contents(home / "datasets") | contents(home / "features")
    kept |= dict.fromkeys((name for name in kept if ".index/" in name), "names its source")
    for run in (home / "runs").iterdir():
        kept |= {
            f"{run.name}/{name}": digest for name, digest in contents(run / "model").items()
        }
    return kept
