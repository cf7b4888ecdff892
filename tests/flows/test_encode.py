"""Encoding: the same rows whatever is at work beside them, and only what is new."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.features import latest_of, open_features
from data.part_rows import part_rows
from data.preprocessing import fit_preprocessor
from data.publication import FormatError, Staging
from data.snapshot import Snapshot, ingest, open_snapshot
from flows import handoff, row_encoder
from flows.encode import publish
from flows.part_encoder import loaded
from flows.row_encoder import RowEncoder, in_order
from flows.settings import Home
from flows.spec import ExecutionSection, load_spec
from vae_engine.artifact import load_model, save_model
from vae_engine.encoding import encode
from vae_engine.model import build_model

EVERY_COLUMN = "['mean', 'stddev', 'samples', 'elbo']"
PART_ROWS = 1024  # the smallest part there is


def table(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    values = random.normal(size=(40_000, 3))[:rows]
    values[::7, 1] = np.nan
    columns = {f"x{k}": pa.array(values[:, k], from_pandas=True) for k in range(3)}
    return pa.table({"id": np.arange(rows), **columns})


def snapshot_of(home: Home, rows: int, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)
    return ingest(table(rows), name="t", root=home.datasets, key="id")


def encoder_of(
    folder: Path, snapshot: Snapshot, version: int = 1, *, hidden: int = 5
) -> dict[str, Any]:
    """An untrained model of the snapshot, as the registration of a run names it."""
    spec = load_spec("mnist", [f"model.hidden=[{version + hidden}]", "model.latents=2"])
    spec = spec.model_copy(
        update={"model": spec.model.model_copy(update={"binarization": None})}
    )
    artifact = folder / f"model-{version}"
    preprocessor = fit_preprocessor(snapshot)
    config = handoff.model_config(spec, preprocessor, snapshot)
    artifact.mkdir(parents=True)
    (artifact / "preprocessor.json").write_text(preprocessor.to_json(), encoding="utf-8")
    x = torch.from_numpy(preprocessor.transform(snapshot.table().slice(0, 4)).x)
    digest = save_model(artifact, build_model(config, seed=version), x)
    return {
        "name": "t",
        "version": version,
        "digest": digest,
        "folder": str(artifact),
        "champion": True,
    }


def encoded(
    home: Home, snapshot: Snapshot, encoder: Mapping[str, Any], *overrides: str
) -> Mapping[str, Any]:
    wanted = load_spec("mnist", overrides).encoding
    return publish(wanted, home, snapshot, encoder).value


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_rows_are_those_of_the_engine_bit_for_bit(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_encoder, "CHUNK_ENTRIES", 1)  # a chunk is a batch
    snapshot = snapshot_of(home, 2500, monkeypatch)
    encoder = encoder_of(home.root, snapshot)

    encoded(home, snapshot, encoder, "encoding.batch_rows=64")

    features = open_features("t", home=home.root, verify=True)
    x = fit_preprocessor(snapshot).transform(snapshot.table()).x
    mean, stddev = encode(
        load_model(Path(encoder["folder"])), torch.from_numpy(x), batch_rows=64
    )
    assert features.to_arrow()["id"].to_pylist() == list(range(2500))
    np.testing.assert_array_equal(features.to_numpy("z_mean"), mean.numpy())
    np.testing.assert_array_equal(features.to_numpy("z_stddev"), stddev.numpy())
    assert features.manifest["counts"] == {"x1.null": len(range(0, 2500, 7))}
    assert features.manifest["adopted_parts"] == 0


def test_chunks_and_workers_change_no_byte(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 3000, monkeypatch)
    encoder = encoder_of(home.root, snapshot)
    wanted = f"encoding.columns={EVERY_COLUMN}"
    paths = []
    for workers, entries in ((1, 1), (3, 2**22)):
        monkeypatch.setattr(row_encoder, "CHUNK_ENTRIES", entries)
        monkeypatch.setattr(row_encoder, "cores", lambda workers=workers: workers)
        other = Home(tmp_path / str(workers))
        paths.append(Path(encoded(other, snapshot, encoder, wanted)["path"]))

    first, second = ((path / "manifest.json").read_bytes() for path in paths)

    assert first == second  # it has the sha256 of every part


def test_chunks_that_go_to_a_device_and_back_are_the_same(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the device is the CPU, by another name."""
    monkeypatch.setattr(row_encoder, "CHUNK_ENTRIES", 1)
    snapshot = snapshot_of(home, 1500, monkeypatch)
    encoder = encoder_of(home.root, snapshot)
    model, preprocessor = loaded(encoder["folder"], encoder["digest"], "cpu")
    wanted = load_spec("mnist", [f"encoding.columns={EVERY_COLUMN}"]).encoding
    tables = []
    for device in ("cpu", "cpu:0"):
        rows = RowEncoder(model, preprocessor, snapshot.contract, wanted, 1, device)
        tables.append([part.table for part in rows.parts(snapshot, [0, 1], workers=2)])

    assert tables[0] == tables[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_publishes_the_features_of_a_cpu_under_another_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 3000, monkeypatch)
    encoder = encoder_of(home.root, snapshot)
    wanted = load_spec("mnist", [f"encoding.columns={EVERY_COLUMN}"]).encoding
    paths, features = [], []
    for device in ("cpu", "cuda"):
        execution = ExecutionSection(device=device)
        paths.append(publish(wanted, home, snapshot, encoder, execution).value["path"])
        frame = open_features("t", home=home.root, verify=True).to_pandas()
        features.append(frame.select_dtypes("float32").to_numpy())

    assert paths[0] != paths[1]
    np.testing.assert_allclose(features[1], features[0], rtol=1e-3, atol=1e-4)


def test_a_grown_data_set_encodes_its_new_parts_only(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = snapshot_of(home, 2 * PART_ROWS + 100, monkeypatch)
    encoder = encoder_of(home.root, small)
    before = encoded(home, small, encoder)
    grown = snapshot_of(home, 4 * PART_ROWS, monkeypatch)

    after = encoded(home, grown, encoder)

    assert (before["adopted_parts"], before["parts"]) == (0, 3)
    assert (after["adopted_parts"], after["parts"]) == (2, 4)
    features = open_features("t", home=home.root, verify=True)
    assert features.to_arrow()["id"].to_pylist() == list(range(4 * PART_ROWS))
    for part in range(2):
        name = f"data/part-{part:05d}.parquet"
        assert (Path(before["path"]) / name).samefile(Path(after["path"]) / name)
    assert features.manifest["counts"]["x1.null"] == len(range(0, 4 * PART_ROWS, 7))


def test_another_model_or_encoding_adopts_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = snapshot_of(home, 2 * PART_ROWS, monkeypatch)
    encoder = encoder_of(home.root, small)
    encoded(home, small, encoder)
    grown = snapshot_of(home, 3 * PART_ROWS, monkeypatch)

    other_model = encoded(home, grown, encoder_of(home.root, small, version=2))
    other_encoding = encoded(home, grown, encoder, "encoding.layout=vector")

    assert other_model["adopted_parts"] == other_encoding["adopted_parts"] == 0


def test_a_damaged_earlier_part_is_encoded_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = snapshot_of(home, 2 * PART_ROWS, monkeypatch)
    encoder = encoder_of(home.root, small)
    before = encoded(home, small, encoder)
    part = Path(before["path"]) / "data" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100] + bytes(100))
    grown = snapshot_of(home, 3 * PART_ROWS, monkeypatch)

    after = encoded(home, grown, encoder)

    assert after["adopted_parts"] == 1
    assert open_features("t", home=home.root, verify=True).rows == 3 * PART_ROWS


def test_an_interrupted_encoding_goes_on_where_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 4 * PART_ROWS, monkeypatch)
    encoder = encoder_of(home.root, snapshot)
    straight = encoded(Home(home.root / "straight"), snapshot, encoder)
    write_part, written = Staging.write_part, []

    def failing(staging: Staging, number: int, *rest: Any) -> Any:
        written.append(number)
        if written == [0, 1, 2]:
            raise OSError("no space left on device")
        return write_part(staging, number, *rest)

    monkeypatch.setattr(Staging, "write_part", failing)
    with pytest.raises(OSError, match="no space"):
        encoded(home, snapshot, encoder)
    assert not list(home.features.glob("t/*/*/manifest.json"))

    resumed = encoded(home, snapshot, encoder)

    assert written == [0, 1, 2, 2, 3]
    manifests = [(Path(v["path"]) / "manifest.json").read_bytes() for v in (straight, resumed)]
    assert manifests[0] == manifests[1]


def test_an_older_version_is_published_beside_the_champion(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 1500, monkeypatch)
    champion = encoded(home, snapshot, encoder_of(home.root, snapshot, version=2))
    older = encoder_of(home.root, snapshot, version=1) | {"champion": False}

    backfilled = encoded(home, snapshot, older)

    latest = latest_of(home.features, "t")
    assert latest["champion"] == {"model_version": 2, "publication": champion["id"]}
    assert latest["versions"]["1"] == backfilled["id"]
    assert open_features("t", home=home.root, model_version=1).rows == 1500
    assert "model_version=1" in backfilled["read"]


def test_a_snapshot_without_rows_is_published_without_rows(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = snapshot_of(home, 1500, monkeypatch)
    empty = ingest(table(0), name="t", root=home.datasets, contract=full.contract)

    value = encoded(home, empty, encoder_of(home.root, full))

    assert value["rows"] == 0
    assert "z_mean_000" in open_features("t", home=home.root).to_arrow().column_names


def test_a_value_that_is_not_finite_is_not_published(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 1500, monkeypatch)
    encoder = encoder_of(home.root, snapshot)
    broken = load_model(Path(encoder["folder"]))
    with torch.no_grad():
        broken.head.bias.fill_(torch.nan)
    monkeypatch.setattr(
        "flows.part_encoder.load_model",
        lambda _, digest: broken,  # noqa: ARG005
    )

    with pytest.raises(FloatingPointError, match="part 0 of the snapshot"):
        encoded(home, snapshot, encoder)

    assert not list(home.features.glob("t/*/*/manifest.json"))


def test_rows_of_a_part_come_in_order_and_damage_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(home, 2000, monkeypatch)
    part = snapshot.parts[0]

    batches = list(part_rows(part, 300))

    assert [len(batch) for batch in batches] == [300, 300, 300, 124]
    assert pa.Table.from_batches(batches).equals(snapshot.part_table(part))
    content = bytearray(part.path.read_bytes())
    content[200:400] = bytes(200)
    part.path.write_bytes(content)
    with pytest.raises(FormatError, match=r"part-00000\.parquet is damaged"):
        list(part_rows(open_snapshot(snapshot.path).parts[0], 300))


def test_work_comes_back_in_order_and_so_do_errors() -> None:
    assert list(in_order(lambda item: -item, range(50), workers=3)) == [-k for k in range(50)]

    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = in_order(fail_at_three, range(50), workers=2)
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_threads_of_torch_are_what_they_were(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    snapshot = snapshot_of(home, 1500, monkeypatch)

    encoded(home, snapshot, encoder_of(home.root, snapshot))

    assert torch.get_num_threads() == before
    assert pq.ParquetFile(snapshot.parts[0].path).num_row_groups == 1
