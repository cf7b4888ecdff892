"""Shards on a cluster: two nodes on this machine, one of which is killed; failing shards; reruns."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from data.features import open_features
from data.snapshot import Snapshot
from flows.encode import publish
from flows.executor import ShardError, engine
from flows.ingest import ingest_dataset
from flows.settings import Home
from flows.spec import ExecutionSection, SpecError, load_spec
from tests.flows.test_encode import PART_ROWS, encoder_of, snapshot_of, table

PARTS = 12
WIDE = 3000  # a hidden layer that makes a part take long enough to be caught at it
QUICKLY = {  # seconds, not a quarter of a minute, until a node counts as dead
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node of one core, on the loopback interface."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster_utils = pytest.importorskip("ray.cluster_utils")
        cluster = cluster_utils.Cluster()
        try:
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20, _system_config=QUICKLY)
        except Exception as error:  # noqa: BLE001  # whatever a starved machine makes of it
            pytest.skip(f"Ray does not start here: {error}")
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def snapshot(home: Home, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    return snapshot_of(home, PARTS * PART_ROWS, monkeypatch)


def encoded(home: Home, snapshot: Snapshot, encoder: Mapping[str, Any], on: str) -> Path:
    wanted = load_spec("mnist").encoding
    value = publish(wanted, home, snapshot, encoder, ExecutionSection(engine=on)).value
    return Path(value["path"])


def written(home: Home) -> dict[str, int]:
    """The parts that are there, by name, and the file that each one is."""
    staged = [*home.features.glob(".staging/*/data/*"), *home.features.glob("t/*/*/data/*")]
    return {path.name: path.stat().st_ino for path in staged}


def wait_for(condition: Callable[[], bool], timeout_s: float = 200.0) -> None:
    end = monotonic() + timeout_s
    while not condition():
        assert monotonic() < end, "waited too long"
        sleep(0.02)


def test_a_lost_node_costs_its_tasks_and_no_byte(
    cluster: Any, home: Home, snapshot: Snapshot
) -> None:
    encoder = encoder_of(home.root, snapshot, hidden=WIDE)
    here = encoded(Home(home.root / "here"), snapshot, encoder, "local")
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    left: list[int] = []

    def kill() -> None:
        wait_for(lambda: len(written(home)) >= 3)
        cluster.remove_node(node, allow_graceful=False)
        left.append(PARTS - len(written(home)))

    killer = threading.Thread(target=kill)
    killer.start()
    there = encoded(home, snapshot, encoder, "ray")
    killer.join()

    assert left[0] > 0
    assert (there / "manifest.json").read_bytes() == (here / "manifest.json").read_bytes()
    features = open_features("t", home=home.root, verify=True)
    assert features.to_arrow()["id"].to_pylist() == list(range(PARTS * PART_ROWS))


def test_a_damaged_part_fails_alone_and_a_rerun_does_only_it(
    cluster: Any, home: Home, snapshot: Snapshot
) -> None:
    encoder = encoder_of(home.root, snapshot)
    part = snapshot.parts[4].path
    whole = part.read_bytes()
    part.write_bytes(whole[:200] + bytes(200) + whole[400:])

    with pytest.raises(ShardError) as caught:
        encoded(home, snapshot, encoder, "ray")
    message = str(caught.value)
    assert message.startswith(f"1 of {PARTS} shards failed, the others are done:\n  part 4: ")
    assert "FormatError" in message
    before = written(home)
    assert len(before) == PARTS - 1

    part.write_bytes(whole)
    path = encoded(home, snapshot, encoder, "ray")

    after = written(home)
    assert {name: after[name] for name in before} == before
    assert open_features("t", home=home.root, verify=True).path == path


def test_a_snapshot_made_on_ray_is_that_made_here_byte_for_byte(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)
    source = tmp_path / "t.csv"
    table(3 * PART_ROWS + 5).to_pandas().to_csv(source, index=False)
    files = []
    for on in ("local", "ray"):
        spec = load_spec(str(source), ["dataset.key=id", f"execution.engine={on}"])
        snapshot = Path(ingest_dataset(spec, Home(tmp_path / on)).value["path"])
        paths = [path for path in snapshot.rglob("*") if path.is_file()]
        files.append({path.relative_to(snapshot): path.read_bytes() for path in paths})

    assert len(files[0]) == 4 + 3
    assert files[0] == files[1]


def test_a_shard_that_kills_its_process_fails_alone(cluster: Any) -> None:
    def work(shard: int) -> int:
        if shard == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return -shard

    results: list[int] = []
    with (
        pytest.raises(ShardError, match=r"1 of 4 shards failed(.|\n)*\n  1: WorkerCrashed"),
        engine(ExecutionSection(engine="ray"), "test") as mapped,
    ):
        results.extend(mapped(work, range(4)))

    assert results == [0, -2, -3]


def test_shards_that_compute_on_a_gpu_have_it_to_themselves_and_keep_their_process(
    cluster: Any,
) -> None:
    """Ray counts the GPUs that a node says it has: how it shares them needs none to be seen."""

    def work(shard: int) -> tuple[int, list[str], int]:
        import ray

        return shard, ray.get_runtime_context().get_accelerator_ids()["GPU"], os.getpid()

    def mapped(device: str) -> list[tuple[int, list[str], int]]:
        with engine(ExecutionSection(engine="ray"), "test", device=device) as engaged:
            return list(engaged(work, range(6)))

    with pytest.raises(SpecError, match="is a GPU, and Ray's cluster has none"):
        mapped("cuda")
    node = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=100 << 20)
    on_gpu, on_cpu = mapped("cuda"), mapped("cpu")
    cluster.remove_node(node)

    assert [(shard, gpus) for shard, gpus, _ in on_gpu] == [(k, ["0"]) for k in range(6)]
    assert len({pid for _, _, pid in on_gpu}) == 1
    assert [(shard, gpus) for shard, gpus, _ in on_cpu] == [(k, []) for k in range(6)]


def test_after_a_killed_driver_only_missing_parts_are_encoded(
    cluster: Any, home: Home, snapshot: Snapshot, tmp_path: Path
) -> None:
    encoder = encoder_of(home.root, snapshot, hidden=WIDE)
    code = (
        "import sys; from pathlib import Path; from data.snapshot import open_snapshot\n"
        "from flows.settings import Home; from tests.flows.test_ray import encoded\n"
        f"encoded(Home(Path({str(home.root)!r})), open_snapshot(Path({str(snapshot.path)!r})),"
        f" {encoder!r}, 'ray')"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for(lambda: len(written(home)) >= 2)
    driver.kill()
    driver.wait()
    sleep(1)  # tasks that were running end with their driver
    before = written(home)

    path = encoded(home, snapshot, encoder, "ray")

    assert 2 <= len(before) < PARTS
    after = written(home)
    assert {name: after[name] for name in before} == before
    here = encoded(Home(home.root / "here"), snapshot, encoder, "local")
    assert (path / "manifest.json").read_bytes() == (here / "manifest.json").read_bytes()
