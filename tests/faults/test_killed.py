"""RELIABILITY 2a: kill -9 before every persistence operation of a stage, then run it again.

After each death a reader finds all or nothing, and the second run ends as if there had been
no first: the same bytes, one version, one verdict.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.checking import ContractError
from data.features import latest_of, list_publications, open_features, write_latest
from data.publication import Staging, locked, read_manifest, verify_parts
from data.snapshot import Snapshot, ingest, open_snapshot
from flows import tracking
from flows.encode import encode_dataset
from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.register import register_model
from flows.runs import read_record
from flows.settings import Home
from flows.train import train_model
from tests.faults.conftest import Cases
from tests.faults.crashes import deaths, succeeds
from tests.faults.effort import whole_or
from tests.faults.small import (
    PART_ROWS,
    ROWS,
    Place,
    contents,
    published,
    registered,
    spec_of,
    table,
    written,
)

TABLES = [table().slice(start, PART_ROWS) for start in range(0, ROWS, PART_ROWS)]
FORMAT = {"format": "test/format", "format_version": 1}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)


def emptied(folder: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def count(cases: Cases, row: str) -> None:
    cases(f"2a {row}")
    cases("I1 a reader sees all or nothing")
    cases("I2 killed and run again: the same bytes")


def ingested(root: Path) -> Snapshot:
    return ingest(table(), name="t", root=root)


def named(root: Path) -> dict[str, str]:
    """What lies under `root`, but for the workshop and what was half done."""
    return {
        path: digest
        for path, digest in contents(root).items()
        if not path.startswith(".staging/") and not Path(path).name.startswith(".tmp-")
    }


def test_kill_9_in_ingest(tmp_path: Path, cases: Cases) -> None:
    whole, root = tmp_path / "whole", tmp_path / "killed"
    expected = contents(ingested(whole).path)

    for _ in deaths(lambda: ingested(root), prepared=emptied(root), every=whole_or(1, 11)):
        count(cases, "kill -9 in ingest")
        for manifest in root.glob("t/*/manifest.json"):
            open_snapshot(manifest.parent).verify()
            assert contents(manifest.parent) == expected
        assert contents(ingested(root).path) == expected
        with pytest.raises(ContractError, match="x0"):  # the contract of the first source holds
            ingest(table(ROWS + 1, gap_at=ROWS), name="t", root=root)
        assert named(root / "t") == named(whole / "t")


def test_kill_9_in_a_publication(tmp_path: Path, cases: Cases) -> None:
    """Parts, manifest, name and pointer, by themselves; the reader may be a plain glob."""
    whole, root = tmp_path / "whole", tmp_path / "killed"
    expected = named(publish(whole))

    for _ in deaths(lambda: publish(root), prepared=emptied(root), every=whole_or(1, 11)):
        count(cases, "kill -9 in publish, latest.json included")
        final = root / "t" / "model_version=v1" / "publication=abc"
        assert not final.exists() or contents(final) == expected
        assert not latest_of(root, "t")["versions"] or final.exists()
        assert contents(publish(root)) == expected
        assert named(root / "t") == named(whole / "t")


def publish(root: Path) -> Path:
    staging = Staging(root, "abc")
    with locked(staging.lock_path()):
        parts = [staging.write_part(number, rows, {}) for number, rows in enumerate(TABLES)]
        final = root / "t" / "model_version=v1" / "publication=abc"
        staging.commit(final, parts, FORMAT)
    write_latest(root, "t", version=1, publication="abc", champion=True)
    verify_parts(final, read_manifest(final, format="test/format", version=1))
    return final


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here what the stages import when they first run, and not in each child."""
    folder = tmp_path_factory.mktemp("warm")
    published(spec_of(written(folder)), Home(folder / "home"))


def test_kill_9_in_encode(tmp_path: Path, cases: Cases) -> None:
    """Finished parts are kept, the rest is done again, and the registry hears of it."""
    home, spec = Home(tmp_path / "home"), spec_of(written(tmp_path))
    succeeds(lambda: keep(home, registered(spec, home)))
    place = Place.save(home.root)
    snapshot, registration = json.loads((home.root / "kept.json").read_text())

    def encode() -> object:
        return encode_dataset(spec, home, snapshot, registration)

    succeeds(encode)
    expected = named(home.features)

    def reader() -> None:
        for found in list_publications(home.root):
            assert contents(found.path).items() <= whole_publication.items()
            open_features(
                "small", home=home.root, publication=found.publication, verify=True
            ).to_arrow()

    (found,) = list_publications(home.root)
    whole_publication = contents(found.path)

    def again() -> None:
        reader()
        encode()
        reader()
        (version,) = tracking.versions(home, "small")
        assert version.tags["latents.publication"] == found.publication
        assert named(home.features) == expected

    for _ in deaths(encode, prepared=place.restore, every=whole_or(2, 31)):
        count(cases, "kill -9 in encode")
        succeeds(again)


def keep(home: Home, value: Any) -> None:
    """What a child found out, for its parent."""
    (home.root / "kept.json").write_text(json.dumps(value))


def in_registry(home: Home, run: Path) -> dict[str, Any]:
    """What the registry and the run's records say at the end, but for ids and times."""
    client = tracking.client(home)
    versions = tracking.versions(home, "small")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (mlflow_run,) = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{tracking.RUN_TAG}` = '{run.name}'",
    )
    return {
        "versions": [(v.version, v.digest, v.aliases) for v in versions],
        "tags": [
            {name: text for name, text in v.tags.items() if name != "mlflow_run"}
            for v in versions
        ],
        "run": [mlflow_run.data.params, mlflow_run.data.metrics, mlflow_run.info.status],
        "champions": tracking.champions(home, "small"),
        "gate": read_record(run / "gate.json"),
        "latest": latest_of(home.features, "small"),
    }


def test_kill_9_in_register(tmp_path: Path, cases: Cases) -> None:
    """One version, one run, one verdict with its evidence, though a champion was before."""
    source, home = written(tmp_path, 600), Home(tmp_path / "home")
    first, second = spec_of(source), spec_of(source, "training.epochs=60")

    def champion_and_challenger() -> None:
        published(first, home)
        snapshot = ingest_dataset(second, home).value["path"]
        run = train_model(second, home, snapshot).value["path"]
        keep(home, [run, evaluate_model(second, run).value])

    succeeds(champion_and_challenger)
    place = Place.save(home.root)
    run, evaluation = json.loads((home.root / "kept.json").read_text())

    def register() -> object:
        return register_model(second, home, run, evaluation)

    def whole() -> None:
        register()
        keep(home, in_registry(home, Path(run)))

    succeeds(whole)
    expected = json.loads((home.root / "kept.json").read_text())
    assert expected["champions"] == [1, 2]
    assert "better than the champion" in expected["gate"]["reason"]

    def again() -> None:
        register()
        assert json.loads(json.dumps(in_registry(home, Path(run)))) == expected

    for _ in deaths(register, prepared=place.restore, every=whole_or(5, 89), files=False):
        cases("2a kill -9 in register")
        succeeds(again)
