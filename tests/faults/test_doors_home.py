"""RELIABILITY 2d, permissions, secrets, tampered artifacts, malicious pickle, Prefect results.

One whole run through the command line, its Prefect server and MLflow store embedded, with a
source in a bucket and secrets in its environment; then everything that it left is looked at.
"""

import base64
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows import tracking
from flows.settings import Home, prepare_environment
from flows.vault import fetched
from tests.data.stores import client_of, serving
from tests.faults.conftest import Cases
from tests.faults.effort import WHOLE
from vae_engine.artifact import SUMS, ArtifactError

whole_runs = pytest.mark.skipif(not WHOLE, reason="a whole run takes its time: make faults")

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-bucket",
    "AWS_SESSION_TOKEN": "canary-of-the-session",
    "PGPASSWORD": "canary-of-the-database",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-the-registry",
    "PREFECT_API_KEY": "canary-of-the-orchestrator",
}
IN_ADDRESSES = "canary-in-an-address"
REFUSED = [
    f"https://me:{IN_ADDRESSES}@host.test/t.csv",
    f"https://{IN_ADDRESSES}@host.test/t.csv",
    f"https://host.test/t.csv?token={IN_ADDRESSES}",
    f"s3://key:{IN_ADDRESSES}@bucket/t.csv",
    f"postgresql://me:{IN_ADDRESSES}@host.test/db",
]
QUICK = ["training.epochs=40", "training.learning_rate=0.01", "model.hidden=[16]"]
QUICK += ["model.latents=2", "dataset.key=id", "evaluation.importance_samples=50"]
QUICK += ['evaluation.estimators=["importance"]']


@dataclass(frozen=True)
class Run:
    """A home after a whole run, and what the command said."""

    home: Path
    summary: dict[str, Any]
    said: str


def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=300)
    return pd.DataFrame({"id": range(300), "x": x, "y": x + 0.1 * random.normal(size=300)})


def latents(
    home: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line with the most careless umask that there is."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "UMASK")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments, "--home", str(home)],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        umask=0,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("doors")
    home = folder / "home"
    with serving("bucket") as store:
        client = client_of(store)
        client.put_object(Bucket="bucket", Key="t.csv", Body=frame().to_csv(index=False))
        client.close()
        settings = [word for setting in QUICK for word in ("--set", setting)]
        environment = {**SECRETS, "AWS_ACCESS_KEY_ID": "a", "AWS_REGION": "us-east-1"}
        said = ""
        for source in REFUSED:
            refused = latents(home, "run", source, *settings, **environment)
            assert refused.returncode == 2, refused.stderr
            said += refused.stdout + refused.stderr
        done = latents(
            home,
            *("run", "s3://bucket/t.csv", "--json", "--debug", *settings),
            **environment,
            AWS_ENDPOINT_URL_S3=store,
        )
        assert done.returncode == 0, done.stderr
        yield Run(home, json.loads(done.stdout), said + done.stdout + done.stderr)


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


@whole_runs
def test_no_secret_is_kept_or_said(run: Run, cases: Cases) -> None:
    """RELIABILITY 2d, secrets: in no log, database, manifest, record, report or result."""
    canaries = [*SECRETS.values(), IN_ADDRESSES]
    forms = [c.encode() for c in canaries] + [base64.b64encode(c.encode()) for c in canaries]
    kept = files(run.home)
    cases("2d secrets", len(kept))

    assert {"mlflow.db", "prefect.db", "manifest.json", "report.html"} <= {p.name for p in kept}
    for canary in canaries:
        assert canary not in run.said
    for path in kept:
        content = path.read_bytes()
        assert not [form for form in forms if form in content], path


@whole_runs
def test_no_pickle_is_kept(run: Run, cases: Cases) -> None:
    """RELIABILITY 2d, Prefect results: JSON, as are all; nothing in a home is a pickle."""
    kept = files(run.home)
    cases("2d no pickle in a home", len(kept))
    starts = [pickle.dumps(None, protocol)[:2] for protocol in (2, 3, 4, 5)]
    encoded = [base64.b64encode(start + b"\x95")[:4] for start in starts[2:]]
    results = list((run.home / "prefect" / "storage").rglob("*"))

    for path in kept:
        content = path.read_bytes()
        assert content[:2] not in starts, path
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".joblib"), path
        if "prefect" in path.parts and path.suffix != ".db":
            assert not any(b'"' + start in content for start in encoded), path
    for path in results:
        assert json.loads(path.read_text())["metadata"]["serializer"]["type"] == "json"


@whole_runs
def test_nobody_else_can_read_a_home(run: Run, cases: Cases) -> None:
    """RELIABILITY 2d, permissions: of home, checkpoints, models, whatever the umask was."""
    made = [run.home, *run.home.rglob("*")]
    cases("2d permissions", len(made))

    assert stat.S_IMODE(run.home.stat().st_mode) == 0o700
    for path in made:
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o027, path
    assert {p.name for p in made} >= {
        "checkpoints",
        "model",
        "model.safetensors",
        "manifest.json",
    }


def registered(run: Run) -> tracking.Registered:
    (version,) = tracking.versions(Home(run.home), "t")
    return version


def stored(run: Run) -> list[Path]:
    """Every file of the model as the artifact store has it."""
    (sums,) = (run.home / "mlartifacts").rglob(SUMS)
    model = next(p for p in sums.parents if (p / "MLmodel").is_file())
    return sorted(p for p in model.rglob("*") if p.is_file())


@whole_runs
def test_a_changed_file_of_a_model_is_refused_before_it_is_parsed(
    run: Run, cases: Cases
) -> None:
    """RELIABILITY 2d, artifact tampered: each file of the artifact in turn, in the store."""
    home, version = Home(run.home), registered(run)
    fetched(home, version)
    shutil.rmtree(home.root / "models")
    sums = next(path for path in stored(run) if path.name == SUMS)
    for path in sorted(sums.parent.iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.chmod(0o600)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ArtifactError):
                fetched(home, version)
        path.write_bytes(whole)
        cases("2d artifact tampered", 3)
    fetched(home, version)
    assert len(list(sums.parent.iterdir())) >= 6


class Canary:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@whole_runs
def test_code_in_a_model_is_never_run(run: Run, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, malicious pickle: whatever is put beside the artifact or into its place."""
    home, version = Home(run.home), registered(run)
    shutil.rmtree(home.root / "models", ignore_errors=True)
    sung = tmp_path / "the canary sang"
    evil = pickle.dumps(Canary(sung))
    code = f"import os\nos.mkdir({str(sung)!r})\n"
    sums = next(path for path in stored(run) if path.name == SUMS)
    model = next(p for p in sums.parents if (p / "MLmodel").is_file())
    before = {path: path.read_bytes() for path in stored(run)}
    (model / "python_model.pkl").write_bytes(evil)
    (model / "data.pth").write_bytes(evil)
    for path in model.rglob("*.py"):
        path.write_text(code)
    mlmodel = (model / "MLmodel").read_text()
    (model / "MLmodel").write_text(
        mlmodel.replace("loader_module: mlflow.pyfunc.model", "loader_module: evil")
        + f"\nx: !!python/object/apply:os.mkdir [{str(sung)!r}]\n"
    )
    (model / "evil.py").write_text(code)
    fetched(home, version)
    cases("2d malicious pickle")
    for path in sorted(sums.parent.iterdir()):
        path.write_bytes(evil)
        shutil.rmtree(home.root / "models", ignore_errors=True)
        with pytest.raises(ArtifactError):
            fetched(home, version)
        path.write_bytes(before[path])
        cases("2d malicious pickle")

    assert not sung.exists()
    pickle.loads(evil)  # noqa: S301  # it does sing
    assert sung.is_dir()


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o1777, True), (0o750, False)])
def test_a_home_that_anyone_may_write_to_is_refused(
    mode: int, refused: bool, tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY 2d, permissions: who may write beside a model may put another in its place."""
    cases("2d permissions")
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    done = latents(home, "features")

    assert done.returncode == (2 if refused else 0), done.stderr
    assert ("chmod o-w" in " ".join(done.stderr.split())) is refused


def test_a_home_is_made_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """RELIABILITY 2d, permissions."""
    cases("2d permissions")
    for name in list(os.environ):
        monkeypatch.setenv(name, os.environ[name])  # what is set below is taken back
    before = os.umask(0)
    try:
        prepare_environment(Home(tmp_path / "home"))
        (tmp_path / "home" / "file").touch()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "file").stat().st_mode) == 0o640
