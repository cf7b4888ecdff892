"""RELIABILITY 2a, homes in object storage: real processes, each with a working copy of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.bucket import BucketError, S3Path
from data.features import FORMAT, VERSION, open_features
from data.publication import read_manifest, verify_parts
from flows.ingest import ingest_dataset
from flows.runs import read_record
from flows.settings import Home, resolve_home
from flows.spec import Spec, override
from tests.data.stores import object_store
from tests.faults.conftest import Cases
from tests.faults.effort import whole_or
from tests.faults.machines import Machine
from tests.faults.small import PART_ROWS, ROWS, spec_of, trained, written


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return spec_of(written(tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.fixture(scope="module")
def straight(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> S3Path:
    """A home in which nothing went wrong."""
    home = "s3://bucket/straight"
    said = Machine(tmp_path_factory.mktemp("straight"), home).run(spec)
    assert said["reused"] == []
    return S3Path.at(home)


def kept(home: S3Path) -> dict[str, bytes]:
    """What no writer may make otherwise than another, by its name in the home."""
    found = [
        *(home / "datasets").objects(),
        *(home / "features").objects(),
        *home.glob("runs/*/trained.json"),
    ]
    return {str(path).removeprefix(str(home)): path.read_bytes() for path in found}


def all_or_nothing(home: S3Path) -> None:
    """Whatever has a manifest is whole."""
    for kind in ("datasets/*/*", "features/*/*/*"):
        for manifest in home.glob(f"{kind}/manifest.json"):
            said = read_manifest(manifest.parent, format=_format(manifest), version=VERSION)
            verify_parts(manifest.parent, said)
    if (home / "features/small/latest.json").exists():
        open_features("small", home=str(home))


def _format(manifest: S3Path) -> str:
    return FORMAT if "/features/" in str(manifest) else "latent-features/snapshot"


def test_s3_no_rename(spec: Spec, straight: S3Path, tmp_path: Path, cases: Cases) -> None:
    """Killed before each change of the store in turn; a machine that knows nothing goes on."""
    change = 1
    while True:
        home = S3Path.at(f"s3://bucket/killed-{change}")
        said = Machine(tmp_path / f"a{change}", str(home)).begin(spec, change=change).end()
        assert said is None or isinstance(said, dict), said
        cases("2a S3: no rename")
        cases("I1 a reader sees all or nothing")
        all_or_nothing(home)
        Machine(tmp_path / f"b{change}", str(home)).run(spec)
        assert kept(home) == kept(straight)
        if said is not None:
            return
        change += whole_or(1, 6)


def test_two_machines_publish_once(
    spec: Spec, straight: S3Path, tmp_path: Path, cases: Cases
) -> None:
    home = S3Path.at("s3://bucket/together")
    for _ in range(whole_or(5, 1)):
        working = [Machine(tmp_path / name, str(home)).begin(spec) for name in "abc"]
        said = [machine.result() for machine in working]
        cases("I4 two at once publish once", len(said))
        assert len({one["publication"] for one in said}) == 1
        assert kept(home) == kept(straight)
        assert open_features("small", home=str(home), verify=True).rows == ROWS


def test_a_machine_with_nothing_finds_everything(
    spec: Spec, straight: S3Path, tmp_path: Path
) -> None:
    said = Machine(tmp_path, str(straight)).run(spec)

    assert said["reused"] == ["ingest", "train", "encode"]
    assert list(tmp_path.rglob("*.parquet")) == []  # no rows were needed


def test_kill_9_in_train_on_another_machine(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """It goes on at the newest checkpoint that was brought to the bucket."""
    longer = override(spec, {"training.epochs": 40, "training.batch_rows": 60})  # 160 steps
    home = S3Path.at("s3://bucket/resumed")
    assert Machine(tmp_path / "a", str(home)).begin(longer, step=130).end() is None
    assert [path.name for path in (home / "runs").objects()] == ["checkpoint.tar"]

    said = Machine(tmp_path / "b", str(home)).run(longer)
    cases("I3 killed in training: the same weights")
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)
    straight = trained(longer, Home(tmp_path / "straight")).record("trained")
    assert said["digest"] == read_record(straight)["digest"]
    assert said["resumed"] == 1
    assert not list(home.glob("runs/*/checkpoint.tar"))


def test_store_lacks_conditional_put(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path))
    with object_store("deaf", conditional=False):
        home = resolve_home("s3://deaf/home")
        cases("2a store lacks conditional put")
        with pytest.raises(BucketError, match=r"^the object store of s3://deaf/home ignores"):
            ingest_dataset(spec, home)
        assert S3Path.at("s3://deaf/home").objects() == []
