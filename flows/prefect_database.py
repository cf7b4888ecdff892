"""Prefect's database in a new home, made in the seconds that its migrations take.

A server does the same at its first start, each of a hundred migrations statement by statement
through a thread: most of what the start of a first run took. Here they change a database in
memory, which then becomes the file.

    python -m flows.prefect_database
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flows.collector import end_at_once, loading

NAME, LIMIT_S = "prefect.db", 120.0  # as Prefect names it


def ensure_database(environment: Mapping[str, str]) -> None:
    """Make the database of the server that will start with this environment, where it is new.

    In a process of its own: this one may be loading libraries. Where that fails, the server does
    it itself, and says what is wrong.
    """
    if (Path(environment["PREFECT_HOME"]) / NAME).exists():
        return
    command = [sys.executable, "-m", "flows.prefect_database"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, env=environment, capture_output=True, timeout=LIMIT_S, check=False
        )


def create_database() -> bool:
    """Make the file of Prefect's settings, with all migrations; whether it was missing."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
    from sqlalchemy import make_url

    address = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    if address.get_backend_name() != "sqlite" or not address.database or address.query:
        return False
    file = Path(address.database)
    if file.name == ":memory:" or file.exists():
        return False
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        _migrate(made)
        made.chmod(0o600)
        with suppress(FileExistsError):  # a server was quicker
            os.link(made, file)
    return True


def _migrate(file: Path) -> None:
    """Do in memory what `env.py` of Prefect's migrations does, and write the result."""
    import prefect.server.database
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from prefect.server.database.dependencies import provide_database_interface
    from sqlalchemy import create_engine

    theirs = provide_database_interface()
    config = Config(Path(prefect.server.database.__file__).parent / "alembic.ini")
    script = ScriptDirectory.from_config(config)
    script.version_locations = [str(theirs.orm.versions_dir)]
    context = EnvironmentContext(
        config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)
    )
    with warnings.catch_warnings(), create_engine("sqlite://").connect() as memory, context:
        warnings.simplefilter("ignore")  # of what is not reflected, as Prefect has it
        context.configure(
            connection=memory,
            target_metadata=theirs.Base.metadata,
            render_as_batch=True,  # SQLite alters no column
            transaction_per_migration=True,
        )
        context.run_migrations()
        memory.commit()
        memory.exec_driver_sql("VACUUM INTO ?", (str(file),))


if __name__ == "__main__":
    end_at_once()
    with loading():
        create_database()
