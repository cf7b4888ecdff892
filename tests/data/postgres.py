"""A real PostgreSQL for a test: made, started and stopped by it, in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "canary-of-the-database"


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def running() -> Iterator[str]:
    """Yield the URL of a database that is empty; skip where PostgreSQL is not installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not start as root, and there is no runuser")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)  # the server is another user
    (folder / "password").write_text(PASSWORD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str | Path) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        subprocess.run([*user, *command], check=True, capture_output=True, cwd=folder)

    run(
        *(binaries / "initdb", "-D", folder / "db", "--no-sync", "-U", "me"),
        *("-A", "scram-sha-256", f"--pwfile={folder / 'password'}"),
    )
    server = (binaries / "pg_ctl", "-D", folder / "db", "-w", "-l", folder / "log")
    options = f"-k {folder} -c listen_addresses=127.0.0.1 -p {port} -F"
    run(*server, "-o", options, "start")
    try:
        yield f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        run(*server, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
