"""Planted regressions: for each, tests of this suite must fail. `make regressions` runs them.

    python -m tests.faults.regressions [word ...]

Each is a phrase of the product's source that is replaced in a copy of the project, where the tests
that should notice are then run; the copy is put right again for the next. One that no test
notices is an error, as is a test that fails without any.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
COPIED = ("data", "flows", "vae_engine", "tests", "pyproject.toml")
FAULTS = "tests/faults"


@dataclass(frozen=True)
class Regression:
    """What is planted, where, and who should notice."""

    name: str
    file: str
    phrase: str
    replacement: str
    noticed_by: str  # of pytest: a file, or file::test

    def source_in(self, project: Path) -> Path:
        return project / self.file


REGRESSIONS = (
    Regression(
        "no fsync of a file's bytes",
        "data/durable.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        f"{FAULTS}/test_power_loss.py",
    ),
    Regression(
        "no fsync of the folder of a new name",
        "data/durable.py",
        "            return False\n    fsync_folder(path.parent)\n    return True\n",
        "            return False\n    return True\n",
        f"{FAULTS}/test_power_loss.py",
    ),
    Regression(
        "manifest before the last part",
        "data/publication.py",
        "                self.path.rename(final)\n",
        "                final.mkdir()\n"
        '                (self.path / "manifest.json").rename(final / "manifest.json")\n'
        '                (self.path / "data").rename(final / "data")\n',
        f"{FAULTS}/test_killed.py::test_kill_9_in_a_publication",
    ),
    Regression(
        "no page checksums",
        "data/part_file.py",
        "write_page_checksum=True",
        "write_page_checksum=False",
        f"{FAULTS}/test_torn.py",
    ),
    Regression(
        "page checksums written, not looked at",
        "data/features.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        f"{FAULTS}/test_torn.py",
    ),
    Regression(
        "alias moved before verification",
        "flows/promotion.py",
        "    publication = _published(home, chosen[0], dataset)\n"
        "    with locked(registry_lock(home, model)):\n"
        "        crown(home, model, version, dataset)\n",
        "    with locked(registry_lock(home, model)):\n"
        "        crown(home, model, version, dataset)\n"
        "        publication = _published(home, chosen[0], dataset)\n",
        f"{FAULTS}/test_registry.py::test_a_tampered_version_does_not_become_champion",
    ),
    Regression(
        "unchecked column order",
        "data/checking.py",
        "pairs = zip(table.schema.names, table.columns, strict=True)",
        "pairs = zip([c.name for c in self.contract.columns], table.columns)",
        f"{FAULTS}/test_promises.py::test_i6_columns_are_told_by_name",
    ),
    Regression(
        "key-set check dropped",
        "flows/part_encoder.py",
        "        check_keys(part, self.staging.path / record.path, self.snapshot.key)\n",
        "        part.path.stat()\n",
        f"{FAULTS}/test_promises.py",
    ),
    Regression(
        "adopt without verifying",
        "data/publication.py",
        "if any(metadata.get(key) != value for key, value in expected.items()):",
        "if not expected:",
        f"{FAULTS}/test_torn.py::test_a_torn_part_in_staging_is_written_anew",
    ),
    Regression(
        "rename over what has the name",
        "data/durable.py",
        "        os.link(temporary, path)\n",
        "        os.replace(temporary, path)\n",
        f"{FAULTS}/test_stores.py",
    ),
    Regression(
        "another content under a published name",
        "data/publication.py",
        '        if (final / "manifest.json").read_bytes() != content:\n',
        "        if not content:\n",
        "tests/data/test_publication.py",
    ),
    Regression(
        "finite check dropped",
        "flows/row_encoder.py",
        "if not all(map(_finite, found[:2])):",
        "if not found:",
        f"{FAULTS}/test_promises.py",
    ),
    Regression(
        "lock of the pointer dropped",
        "data/features.py",
        '    with locked(path.with_name(".latest.lock")):\n',
        "    if path:\n",
        f"{FAULTS}/test_twins.py",
    ),
    Regression(
        "temporary files inside the publication",
        "data/publication.py",
        'self.scratch = root / ".staging" / ".tmp"',
        'self.scratch = self.path / "data"',
        f"{FAULTS}/test_twins.py",
    ),
    Regression(
        "checkpoint written in its place",
        "vae_engine/checkpoint.py",
        'staging = folder / f".{final.name}"',
        "staging = final",
        f"{FAULTS}/test_training_killed.py::test_kill_9_in_a_checkpoint",
    ),
    Regression(
        "the index before the contract",
        "data/recipe.py",
        "        if self.contract is None:\n"
        "            put_once(self._contract_path, contract.to_json().encode())\n"
        "        put_once(self.index_path, json.dumps(entry, indent=1).encode())\n",
        "        put_once(self.index_path, json.dumps(entry, indent=1).encode())\n"
        "        if self.contract is None:\n"
        "            put_once(self._contract_path, contract.to_json().encode())\n",
        f"{FAULTS}/test_killed.py::test_kill_9_in_ingest",
    ),
)


def copied(to: Path) -> None:
    """Copy the project without what was made of it."""
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)


def failing(project: Path, tests: Iterable[str]) -> bool | None:
    """Run the tests in full measure; whether one failed, or None where they could not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"FAULTS": "whole", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode not in {0, 1}:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-2000:])
    return {0: False, 1: True}.get(done.returncode)


def caught(project: Path, regression: Regression) -> str:
    """Plant one regression, run its tests, put the source right; say what came of it."""
    path = regression.source_in(project)
    source = path.read_text("utf-8")
    if source.count(regression.phrase) != 1:
        return (
            f"ERROR: its phrase is {source.count(regression.phrase)} times in {regression.file}"
        )
    path.write_text(source.replace(regression.phrase, regression.replacement), "utf-8")
    try:
        failures = failing(project, [regression.noticed_by])
    finally:
        path.write_text(source, "utf-8")
    if failures is None:
        return "ERROR: the tests did not run"
    return "caught" if failures else "NOT CAUGHT"


def main(words: list[str]) -> int:
    """Plant each regression whose name holds one of the words; print a table."""
    chosen = [r for r in REGRESSIONS if not words or any(word in r.name for word in words)]
    wide = max(len(regression.name) for regression in chosen)
    results = []
    with tempfile.TemporaryDirectory(prefix="regressions-") as folder:
        project = Path(folder)
        copied(project)
        if (
            failing(project, sorted({regression.noticed_by for regression in chosen}))
            is not False
        ):
            sys.stdout.write("these tests fail as they are: what they notice shows nothing\n")
            return 1
        for regression in chosen:
            started = time.monotonic()
            results.append(caught(project, regression))
            elapsed = f"{time.monotonic() - started:5.0f} s"
            noticed = regression.noticed_by.removeprefix("tests/")
            sys.stdout.write(
                f"{regression.name:{wide}}  {results[-1]:10}  {elapsed}  {noticed}\n"
            )
            sys.stdout.flush()
    missed = sum(result != "caught" for result in results)
    sys.stdout.write(f"{len(results) - missed} of {len(results)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
