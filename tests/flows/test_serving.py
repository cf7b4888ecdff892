"""The registered model without us: loaded and served where this project is not installed."""

import base64
import json
import os
import signal
import site
import socket
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from data.features import open_features
from tests.flows.conftest import Finished, digits_table
from tests.flows.stack import wait_for

ROWS = slice(0, 40)
LOADED = """
import json, sys
import mlflow, pandas
try:
    import flows
except ImportError:
    pass
else:
    sys.exit("the project can be imported here")
frame = pandas.read_parquet(sys.argv[1])
features = mlflow.pyfunc.load_model("models:/digits@champion").predict(frame)
features.to_parquet(sys.argv[2])
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with our dependencies and without us.

    A path file brings the packages; that of our own editable install is not read from there.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    ours = [path for path in site.getsitepackages() if Path(path, "mlflow").is_dir()]
    (packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    server = python.with_name("uvicorn")  # which pip would have put there
    server.write_text(f"#!{python}\nfrom uvicorn.main import main\nmain()\n")
    server.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def environment(finished: Finished, elsewhere: Path) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{finished.home / 'mlflow.db'}",
        "PATH": f"{elsewhere.parent}:{os.environ['PATH']}",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }


def published(finished: Finished) -> np.ndarray:
    return open_features("digits", home=finished.home).to_numpy("z_mean")[ROWS]


def means(columns: dict[str, list[float]]) -> np.ndarray:
    names = sorted(name for name in columns if name.startswith("z_mean"))
    return np.column_stack([columns[name] for name in names])


def test_raw_rows_in_features_out_without_this_project(
    finished: Finished, elsewhere: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    pq.write_table(digits_table().select(["image"])[ROWS], tmp_path / "rows.parquet")

    done = subprocess.run(
        [elsewhere, "-c", LOADED, tmp_path / "rows.parquet", tmp_path / "features.parquet"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    features = pq.read_table(tmp_path / "features.parquet").to_pydict()
    np.testing.assert_allclose(means(features), published(finished), atol=1e-5)


@pytest.fixture(scope="module")
def served(
    elsewhere: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of `mlflow models serve`."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        *("mlflow", "models", "serve", "-m", "models:/digits@champion"),
        *("--env-manager", "local", "-h", "127.0.0.1", "-p", port, "--workers", "1"),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [elsewhere, "-m", *command],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return requests.get(f"{address}/ping", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(answers, "the model server", timeout_s=240)
        yield address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def test_mlflow_serves_it(finished: Finished, served: str) -> None:
    """Pictures travel as base64, as MLflow wants binary columns."""
    images = digits_table()["image"][ROWS].combine_chunks()
    pixels = np.asarray(images.flatten()).reshape(len(images), -1)
    rows = [[base64.b64encode(bytes(row)).decode()] for row in pixels.astype(np.uint8)]

    answer = requests.post(
        f"{served}/invocations",
        json={"dataframe_split": {"columns": ["image"], "data": rows}},
        timeout=60,
    )

    assert answer.ok, answer.text
    predictions = json.loads(answer.text)["predictions"]
    columns = pa.Table.from_pylist(predictions).to_pydict()
    np.testing.assert_allclose(means(columns), published(finished), atol=1e-5)


def test_it_says_what_is_wrong_with_a_request(served: str) -> None:
    answer = requests.post(
        f"{served}/invocations",
        json={"dataframe_split": {"columns": ["picture"], "data": [["x"]]}},
        timeout=60,
    )

    assert answer.status_code == 400
    assert "image" in answer.text
