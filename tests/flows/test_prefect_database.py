"""The database of a new home is the one that Prefect's own migrations make."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from flows.prefect_database import create_database, ensure_database


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(home)}


def schema(file: Path) -> Mapping[str, object]:
    """What a database consists of; SQLAlchemy writes constraints in an order that varies."""
    with sqlite3.connect(file) as database:
        rows = database.execute("select type, name, sql from sqlite_master").fetchall()
        revision = database.execute("select * from alembic_version").fetchall()
    made = {
        (kind, name): sorted(line.rstrip(", ") for line in (sql or "").splitlines())
        for kind, name, sql in rows
    }
    return {"revision": revision, "made": made}


def test_the_database_is_that_of_prefects_own_migrations(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ensure_database(environment(ours))
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(upgrade, env=environment(theirs), check=True, capture_output=True)

    found = schema(ours / "prefect.db")

    assert found == schema(theirs / "prefect.db")
    assert found["made"]
    assert [file.name for file in ours.iterdir()] == ["prefect.db"]
    assert stat.S_IMODE((ours / "prefect.db").stat().st_mode) == 0o600


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "prefect.db"
    file.write_bytes(b"somebody's")

    ensure_database(environment(tmp_path))
    with temporary_settings(
        {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{file}"}
    ):
        assert not create_database()

    assert file.read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+asyncpg://somebody@127.0.0.1:1/prefect",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_a_database_that_is_no_file_is_the_servers_to_make(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address}):
        assert not create_database()
    assert not list(tmp_path.iterdir())


def test_where_it_fails_the_server_is_left_to_say_why(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("in the place of a folder")

    ensure_database(environment(home))

    assert home.read_text() == "in the place of a folder"
