"""RELIABILITY I4: the same job by several processes at once publishes once, whoever dies meanwhile."""

import os
import random
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from data.features import latest_of, write_latest
from data.publication import Staging, locked, read_manifest, verify_parts
from data.snapshot import ingest
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.crashes import begun, die, die_before, in_child, killed, wait
from tests.faults.effort import whole_or
from tests.faults.small import PART_ROWS, ROWS, contents, table
from tests.flows.test_encode import encoded, encoder_of

TABLES = [table().slice(start, PART_ROWS) for start in range(0, ROWS, PART_ROWS)]
HEADER = {"format": "test/format", "format_version": 1}
WRITERS, ROUNDS = 4, whole_or(40, 5)


def publish(root: Path, *, pause_s: float = 0.0) -> Path:
    """Publish without the lock: it makes twins polite, and is not what makes them right."""
    staging = Staging(root, "abc")
    parts = []
    for number, rows in enumerate(TABLES):
        parts.append(staging.write_part(number, rows, {}))
        time.sleep(pause_s)
    return staging.commit(root / "name" / "abc", parts, HEADER)


@pytest.mark.parametrize("deaths", [0, WRITERS - 1], ids=["all live", "all but one die"])
def test_two_runs_publish_the_same_set(tmp_path: Path, deaths: int, cases: Cases) -> None:
    expected = contents(publish(tmp_path / "whole"))
    chances = random.Random(0)
    for number in range(ROUNDS):
        root = tmp_path / str(number)

        def twin(dies_at: int | None, pause_s: float, root: Path = root) -> None:
            if dies_at is not None:
                die_before(dies_at)
            publish(root, pause_s=pause_s)

        children = []
        for writer in range(WRITERS):
            at = chances.randint(1, 60) if writer < deaths else None
            pause_s = chances.random() / 500
            children.append(begun(partial(twin, at, pause_s)))
        statuses = [wait(child) for child in children]

        cases(f"2a {WRITERS} processes publish the same set, {deaths} of them die")
        cases("I4 the same job twice publishes once")
        assert statuses[deaths:] == [0] * (WRITERS - deaths)
        assert all(status == 0 or killed(status) for status in statuses)
        final = root / "name" / "abc"
        verify_parts(final, read_manifest(final, format="test/format", version=1))
        assert contents(final) == expected
        assert [path.name for path in (root / "name").iterdir()] == ["abc"]
        shutil.rmtree(root)


def test_two_runs_with_different_models_are_both_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)
    home = Home(tmp_path / "home")
    snapshot = ingest(table(), name="t", root=home.datasets, key="id")
    encoders = [encoder_of(home.root, snapshot, version=number) for number in (1, 2, 3, 4)]

    children = [begun(partial(encoded, home, snapshot, encoder)) for encoder in encoders]

    assert [wait(child) for child in children] == [0] * 4
    cases("2a two runs, different models", len(encoders))
    latest = latest_of(home.features, "t")
    assert sorted(latest["versions"]) == ["1", "2", "3", "4"]
    for version, publication in latest["versions"].items():
        folder = home.features / "t" / f"model_version=v{version}"
        assert [path.name for path in folder.iterdir()] == [f"publication={publication}"]


def test_commit_done_but_the_process_died_before_knowing(tmp_path: Path) -> None:
    """The next run finds the publication, and touches none of it."""

    def renamed_and_dead() -> None:
        rename = os.rename

        def last(*args: object) -> None:
            rename(*args)  # type: ignore[arg-type]
            die()

        os.rename = last  # type: ignore[assignment]
        publish(tmp_path)

    assert killed(in_child(renamed_and_dead))
    before = stamps(tmp_path / "name" / "abc")
    publish(tmp_path)

    assert stamps(tmp_path / "name" / "abc") == before
    assert not list((tmp_path / ".staging").glob("abc*"))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")
    }


def test_stale_lock(tmp_path: Path, cases: Cases) -> None:
    """The kernel lets go of a lock when its holder is killed: there is nothing to clean up."""
    lock = tmp_path / "lock"

    def holder() -> None:
        with locked(lock):
            die()

    assert killed(in_child(holder))
    started = time.monotonic()
    with locked(lock):
        pass
    assert time.monotonic() - started < 1
    assert lock.exists()


def test_twins_move_the_pointer_without_losing_a_version(tmp_path: Path, cases: Cases) -> None:
    """`latest.json` is read, changed and replaced under a lock: no version is forgotten."""
    rounds = whole_or(20, 4)

    def writer(number: int) -> None:
        for turn in range(rounds):
            version = 1 + number + WRITERS * turn
            write_latest(
                tmp_path, "t", version=version, publication=f"p{version}", champion=False
            )

    children = [begun(partial(writer, number)) for number in range(WRITERS)]

    assert [wait(child) for child in children] == [0] * WRITERS
    cases("2a alias race: latest.json", WRITERS * rounds)
    assert len(latest_of(tmp_path, "t")["versions"]) == WRITERS * rounds
