"""The README, executed: its snippets in order, in one folder, as a newcomer would type them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w-]+\.(?:py|toml))")


def test_every_command_and_snippet_runs(tmp_path: Path, prefect_server: str) -> None:
    """TOML and Python with a file name in their first line become that file; Python runs."""
    session: list[str] = []  # the reader's one Python session
    for language, text in BLOCK.findall(README):
        named = NAMED.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        if language == "python":
            session.append(text)
            _run([sys.executable, "-c", "\n".join(session)], tmp_path, prefect_server)
        elif language == "bash":
            for line in text.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "latents"
                command = [sys.executable, "-m", "flows.cli", *arguments]
                _run(command, tmp_path, prefect_server)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)

    assert targets == ["demo", "test"]
    for target in [*targets, "check"]:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _run(command: list[str], folder: Path, server: str) -> None:
    environment = {
        **{k: v for k, v in os.environ.items() if k != "LATENTS_HOME"},
        "PREFECT_API_URL": server,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
