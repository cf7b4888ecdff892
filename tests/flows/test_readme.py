"""The README, executed: its snippets in order, in one folder, as a newcomer would type them."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.services import postgres, postgres_programs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PASSWORD = "of-the-readme"
NAMED = re.compile(r"# ([\w-]+\.(?:py|toml))")


@dataclass(frozen=True)
class Reader:
    """Who types what the README says: where, with which servers at hand."""

    folder: Path
    environment: Mapping[str, str]
    has_database: bool

    def can_run(self, text: str) -> bool:
        """Whether what a snippet needs is installed here; if not, it is parsed at least."""
        modules = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
        engines = {"pyspark": "java", "feast": "feast"}
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        assert set(missing) <= engines.keys(), missing
        return not missing and ("postgresql" not in text or self.has_database)

    def run(self, command: list[str]) -> None:
        """Run one command, which has to end well."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture
def reader(tmp_path: Path, prefect_server: str) -> Iterator[Reader]:
    """A newcomer in an empty folder, with the database of the README on the port that is free."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "LATENTS_HOME"},
        "PREFECT_API_URL": prefect_server,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
    }
    if postgres_programs() is None:
        yield Reader(tmp_path, environment, has_database=False)
        return
    with postgres(PASSWORD, ["features"]) as server:
        known = {"PGPORT": str(server.port), "PGPASSWORD": PASSWORD}
        yield Reader(tmp_path, environment | known, has_database=True)


@pytest.mark.timeout(600)
def test_every_command_and_snippet_runs(reader: Reader) -> None:
    """TOML and Python with a file name in their first line become that file; Python runs.

    The reader has one Python session: a snippet knows the names of those above it. It goes as
    far as the next commands, which may want what it wrote.
    """
    session: list[str] = []
    ran = 0
    for language, text in [*BLOCK.findall(README), ("bash", "")]:
        named = NAMED.match(text)
        if named:
            (reader.folder / named[1]).write_text(text)
        if language == "python":
            ast.parse(text)
            if reader.can_run(text):
                session.append(text)
        elif language == "bash":
            if len(session) > ran:
                reader.run([sys.executable, "-c", "\n".join(session)])
                ran = len(session)
            for line in text.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "latents"
                if reader.can_run(line):
                    reader.run([sys.executable, "-m", "flows.cli", *arguments])


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)

    assert targets == ["demo", "test"]
    for target in [*targets, "check"]:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
