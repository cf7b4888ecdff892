"""A team's set-up: PostgreSQL behind both servers, home and artifacts in S3, secrets in none of it.

The worker's runs have the key and the address of the bucket from Prefect's blocks; the servers
have neither.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
from pydantic import ValidationError

from data.bucket import S3Path
from data.features import open_features
from data.working_copy import working_copy
from flows.monitor import monitor
from flows.report import write_latest_report
from flows.settings import Home, resolve_home
from flows.spec import Spec, SpecError, load_spec
from flows.upkeep import clear
from tests.data.stores import client_of, serving
from tests.flows.conftest import latents
from tests.flows.services import Postgres, postgres
from tests.flows.stack import Stack, latents_up
from tests.flows.test_deployments import deploy

PASSWORD = "canary-of-the-database"
SECRET = "canary-of-the-bucket"
BUCKET = "latents"
HOME = f"s3://{BUCKET}/team/home"


@dataclass(frozen=True)
class Team:
    stack: Stack
    database: Postgres
    store: str
    folder: Path  # with all that this machine keeps


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """`latents up` on PostgreSQL and S3, as the environment says."""
    folder = tmp_path_factory.mktemp("team")
    with (
        postgres(PASSWORD, ["prefect", "mlflow", "features"]) as database,
        serving(BUCKET) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        environment = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.address(
                "prefect", driver="asyncpg"
            ),
            "MLFLOW_BACKEND_STORE_URI": database.address("mlflow", driver="psycopg"),
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/artifacts",
            "AWS_ACCESS_KEY_ID": "latents",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        patch.setenv("LATENTS_CACHE", str(folder / "cache"))
        with latents_up(working_copy(HOME), environment) as stack:
            patch.setenv("AWS_ACCESS_KEY_ID", "latents")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_ENDPOINT_URL", store)
            yield Team(stack, database, store, folder)


@pytest.fixture(scope="module")
def run(team: Team, digits: Path) -> dict[str, Any]:
    """A run by the worker, whose secrets come from Prefect's blocks."""
    for name, value in (("bucket-secret", SECRET), ("bucket-address", team.store)):
        save_secret(team.stack, name, value)
    made = deploy(
        team.stack, digits, "shared",
        "--secret", "AWS_SECRET_ACCESS_KEY=bucket-secret",
        "--secret", "AWS_ENDPOINT_URL=bucket-address",
    )  # fmt: skip
    ended = team.stack.ended(team.stack.start(made["id"]))
    assert ended["state_type"] == "COMPLETED", ended["state"]
    return ended


def save_secret(stack: Stack, name: str, value: str) -> None:
    """Make a secret block, as Prefect's pages do."""
    kind = stack.ask("block_types/slug/secret")
    (schema, *_) = stack.ask(
        "block_schemas/filter",
        {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}},
    )
    stack.ask(
        "block_documents/",
        {
            "name": name,
            "data": {"value": value},
            "block_type_id": kind["id"],
            "block_schema_id": schema["id"],
        },
    )


def test_the_run_is_in_the_databases_and_the_bucket(team: Team, run: dict[str, Any]) -> None:
    with psycopg.connect(team.database.address("mlflow")) as connection:
        versions = connection.execute("select name, version from model_versions").fetchall()
    with psycopg.connect(team.database.address("prefect")) as connection:
        states = connection.execute("select state_type from flow_run").fetchall()
    client = client_of(team.store)
    names = {item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    client.close()

    assert versions == [("shared", 1)]
    assert ("COMPLETED",) in states
    assert any(name.endswith("model.safetensors") for name in names)
    assert any(name.endswith("gate.json") for name in names)
    assert any(name.endswith("report.html") for name in names)
    assert open_features("shared", home=HOME, verify=True).rows == 1797


def test_what_readers_of_the_bucket_need_is_not_cleared_away(
    team: Team, run: dict[str, Any]
) -> None:
    client = client_of(team.store)
    left = "team/home/features/shared/model_version=v1/publication=left/data/part-00000.parquet"
    client.put_object(Bucket=BUCKET, Key=left, Body=b"half a publication")
    client.close()
    done = latents("features", "--gc", "--keep", "0", "--json", home=HOME)

    assert json.loads(done.stdout)["removed"] == 0, done.stderr  # it may be on its way
    assert clear(Home(working_copy(HOME)), keep=0, hours=-1)["removed"] >= 1
    assert open_features("shared", home=HOME, verify=True).rows == 1797
    assert not list(S3Path.at(HOME).glob("features/shared/*/publication=left/data/*"))


def test_features_are_a_table_of_the_database(team: Team, run: dict[str, Any]) -> None:
    address = team.database.address("features")
    done = latents("features", "shared", "--to", address, "--json", home=HOME)
    again = latents("features", "shared", "--to", address, "--json", home=HOME)

    assert done.returncode == again.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert not json.loads(done.stdout)["reused"]
    assert json.loads(again.stdout)["reused"]
    ours = open_features("shared", home=HOME).to_pandas()
    with psycopg.connect(address) as connection:
        rows = connection.execute(
            "select id, split, label, z_mean_000, z_stddev_001, model_version from shared"
        ).fetchall()
    table = {row[0]: row[1:] for row in rows}
    assert len(rows) == len(table) == 1797
    assert [table[key][1] for key in ours["id"]] == ours["label"].tolist()
    assert {row[-1] for row in rows} == {"v1"}
    for place, name in ((2, "z_mean_000"), (3, "z_stddev_001")):
        column = np.array([table[key][place] for key in ours["id"]], np.float32)
        np.testing.assert_array_equal(column, ours[name].to_numpy())


def test_a_database_that_refuses_is_named_without_its_password(team: Team) -> None:
    wrong = team.database.address("nowhere")
    done = latents("features", "shared", "--to", wrong, home=HOME)

    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_another_machine_reports_and_watches(
    team: Team,
    run: dict[str, Any],
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has nothing but the address of the home and of the registry."""
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.stack.mlflow)
    home = resolve_home(HOME)

    report = write_latest_report(home, "shared")
    found = monitor(load_spec(str(digits), ["dataset.name=shared"]), home)

    assert HOME in report.read_text()
    assert not found["drifted"]
    assert list(S3Path.at(HOME).glob("runs/shared-*/drift.json"))


def test_no_secret_is_kept_anywhere(team: Team, run: dict[str, Any]) -> None:
    """Not in the bucket, nor in working copies and logs, nor in what the servers store."""
    kept = {
        str(path.relative_to(team.folder)): path.read_bytes()
        for path in team.folder.rglob("*")
        if path.is_file()
    }
    kept |= {str(place): place.read_bytes() for place in S3Path(BUCKET).objects()}
    kept |= {name: team.database.dump(name).encode() for name in ("prefect", "mlflow")}
    deployed = team.stack.deployment("shared")

    assert any("/logs/" in name for name in kept)
    assert any(name.startswith(HOME) for name in kept)
    for name, content in kept.items():
        assert SECRET.encode() not in content, name
        assert PASSWORD.encode() not in content, name
    environment = deployed["job_variables"]["env"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == "{{ prefect.blocks.secret.bucket-secret }}"


@pytest.mark.parametrize(
    "source",
    [
        f"s3://key:{SECRET}@bucket/table.parquet",
        f"https://host/table.parquet?X-Amz-Signature={SECRET}",
    ],
)
def test_a_spec_with_a_password_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(SpecError, match="holds a password or token") as refused:
        load_spec(source, ["dataset.name=x"])
    with pytest.raises(ValidationError) as refused_by_prefect:
        Spec.model_validate({"dataset": {"name": "x", "source": source}})

    assert SECRET not in str(refused.value)
    assert SECRET not in str(refused_by_prefect.value)


def test_the_servers_listen_on_loopback_alone(team: Team) -> None:
    ports = {int(urlsplit(url).port or 0) for url in (team.stack.prefect, team.stack.mlflow)}
    listening = {port: address for address, port in listening_sockets() if port in ports}

    assert listening.keys() == ports
    assert set(listening.values()) == {"0100007F"}  # 127.0.0.1, as the kernel writes it


def listening_sockets() -> list[tuple[str, int]]:
    """Address and port of every listening TCP socket of this machine."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    places = [fields[1].split(":") for fields in lines if fields[3] == "0A"]
    return [(address, int(port, 16)) for address, port in places]
