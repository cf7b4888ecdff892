"""A PostgreSQL server and an S3 server of our own, on loopback, for as long as a test needs them."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.flows.stack import wait_for

USER = "latents"


@dataclass(frozen=True)
class Postgres:
    """Where the server listens, and who may come in."""

    port: int
    password: str
    programs: Path

    def address(self, database: str, *, driver: str = "", password: bool = True) -> str:
        secret = f":{self.password}" if password else ""
        scheme = f"postgresql{'+' if driver else ''}{driver}"
        return f"{scheme}://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def dump(self, database: str) -> str:
        """All that a database holds, as text."""
        done = subprocess.run(
            [self.programs / "pg_dump", self.address(database)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    """Where PostgreSQL's programs are: on the path, or where Debian puts them."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent  # Debian's wrappers have not all of them
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return known[-1].parent if known else None


def unprivileged() -> tuple[str | None, str | None]:
    """The user that the server runs as, where we are root: it refuses to be."""
    if os.geteuid() != 0:
        return None, None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return name, str(pwd.getpwnam(name).pw_gid)
    pytest.skip("there is no user for PostgreSQL to run as")


@contextmanager
def postgres(password: str, databases: list[str]) -> Iterator[Postgres]:
    """Initialise and run a server; skips the test where PostgreSQL is not installed."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    user, gid = unprivileged()
    group = None if gid is None else int(gid)
    folder = Path(tempfile.mkdtemp(prefix="latents-pg-"))  # pytest's own are closed to others
    secret = folder / "password"
    secret.write_text(password)
    for path in (folder, secret):
        if user is not None:
            shutil.chown(path, user)
    server = Postgres(free_port(), password, programs)
    log = (folder / "log").open("wb")
    data = str(folder / "data")
    try:
        subprocess.run(
            [
                *(programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256"),
                *("--no-sync", f"--pwfile={secret}", "-E", "UTF8", "--locale=C"),
            ],
            user=user, group=group, extra_groups=[] if user else None,
            cwd=folder, stdout=log, stderr=log, check=True, timeout=120,
        )  # fmt: skip
        process = subprocess.Popen(
            [
                *(programs / "postgres", "-D", data, "-h", "127.0.0.1"),
                *("-p", str(server.port), "-k", str(folder), "-c", "fsync=off"),
            ],
            user=user, group=group, extra_groups=[] if user else None,
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_for(lambda: _answers(server), "PostgreSQL", timeout_s=60)
            with psycopg.connect(server.address("postgres"), autocommit=True) as connection:
                for database in databases:
                    connection.execute(f'create database "{database}"')
            yield server
        finally:
            process.terminate()
            process.wait(timeout=60)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(server: Postgres) -> bool:
    try:
        psycopg.connect(server.address("postgres"), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
