"""Write a small home as this version writes it: run once for a release, and keep what comes.

python -m tests.golden.make_home tests/golden/home-0.1
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from data.features import open_features
from data.snapshot import open_snapshot
from flows.ingest import ingest_dataset
from flows.runs import read_record
from flows.settings import Home
from tests.faults.small import spec_of, trained, written
from tests.flows.test_encode import encoded

ROWS = 40


def main(folder: Path) -> None:
    """Ingest, train and publish forty rows; keep what readers of later versions must read."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch))
        spec = spec_of(written(Path(scratch), ROWS), "model.latents=1")
        run = trained(spec, home)
        snapshot = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
        digest = read_record(run.record("trained"))["digest"]
        encoder = {"name": "small", "version": 1, "digest": digest, "champion": True}
        encoded(home, snapshot, {**encoder, "folder": str(run.model)})
        features = open_features("small", home=home.root)
        known = {
            "fingerprint": snapshot.fingerprint,
            "rows": features.rows,
            "z_mean": features.to_numpy("z_mean")[0].tolist(),
            "digest": digest,
        }
        for kept in ("datasets", "features"):
            shutil.copytree(
                home.root / kept, folder / kept, ignore=shutil.ignore_patterns(".*")
            )
        shutil.copytree(run.model, folder / "model")
    (folder / "expected.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
