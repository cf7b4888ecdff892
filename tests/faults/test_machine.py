"""RELIABILITY I1, I4, I5 under any order of events: publish, crash, twin, collect, move the pointer."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from data.features import latest_of, write_latest
from data.garbage import collect, stale_staging
from data.publication import Staging, locked, read_manifest, verify_parts
from tests.faults.conftest import Cases
from tests.faults.crashes import begun, die_before, in_child, killed, wait
from tests.faults.effort import whole_or
from tests.faults.small import contents, table

NAMES = ("a", "b", "c")
ROWS = {"a": 20, "b": 30, "c": 45}
HEADER = {"format": "test/format", "format_version": 1}


def publish(root: Path, name: str) -> Path:
    """Publish the rows of `name` in parts of ten, as version 1."""
    staging = Staging(root, name)
    rows = table(ROWS[name])
    with locked(staging.lock_path()):
        parts = [
            staging.write_part(number, rows.slice(10 * number, 10), {})
            for number in range(-(-len(rows) // 10))
        ]
        final = root / "t" / "model_version=v1" / f"publication={name}"
        return staging.commit(final, parts, HEADER)


class Store(RuleBasedStateMachine):
    """A store of three publications, and all that may happen to it."""

    steps = 0

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.known: dict[str, dict[str, str]] = {}
        self.pointed: str | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @rule(name=st.sampled_from(NAMES))
    def publish(self, name: str) -> None:
        final = publish(self.root, name)
        assert contents(final) == self.known.get(name, contents(final))

    @rule(name=st.sampled_from(NAMES), at=st.integers(1, 80))
    def crash(self, name: str, at: int) -> None:
        def act() -> None:
            die_before(at)
            publish(self.root, name)

        status = in_child(act)
        assert status == 0 or killed(status)

    @rule(name=st.sampled_from(NAMES), at=st.integers(1, 80))
    def twin(self, name: str, at: int) -> None:
        """Two at once, of whom one may die."""

        def mortal() -> None:
            die_before(at)
            publish(self.root, name)

        children = [begun(mortal), begun(lambda: publish(self.root, name))]
        statuses = [wait(child) for child in children]
        assert statuses[1] == 0
        assert statuses[0] == 0 or killed(statuses[0])

    @rule()
    def collect(self) -> None:
        """Clear away, as if a day had passed: nobody is at work now."""
        collect(stale_staging(self.root, hours=-1))

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data())
    def move_the_pointer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        write_latest(self.root, "t", version=1, publication=name, champion=True)
        self.pointed = name

    @invariant()
    def every_publication_is_whole_and_what_it_was(self) -> None:
        type(self).steps += 1
        for folder in self.root.glob("t/*/publication=*"):
            name = folder.name.partition("=")[2]
            verify_parts(folder, read_manifest(folder, format="test/format", version=1))
            assert contents(folder) == self.known.setdefault(name, contents(folder))
        for name in self.known:
            assert (self.root / "t" / "model_version=v1" / f"publication={name}").exists()

    @invariant()
    def the_pointer_names_what_is_there(self) -> None:
        champion = latest_of(self.root, "t")["champion"]
        assert (champion or {}).get("publication") == self.pointed


def test_any_order_of_events(cases: Cases) -> None:
    run: Callable[..., None] = run_state_machine_as_test
    run(
        Store,
        settings=settings(
            max_examples=whole_or(60, 5),
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for row in ("I1 a reader sees all or nothing", "I5 published files never change"):
        cases(row, Store.steps)
    cases("2a hypothesis: publish, crash, twin, collect, move", Store.steps)
