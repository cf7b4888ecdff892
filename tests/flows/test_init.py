"""A drafted spec runs as it stands, and leads where the bare source leads."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from data.formats import SourceError
from data.snapshot import open_snapshot
from flows.ingest import ingest_dataset
from flows.init import init
from flows.settings import Home
from flows.spec import SpecError, load_spec
from tests.flows.conftest import latents


def table() -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(500),
            "age": random.integers(18, 90, 500),
            "income": np.exp(random.normal(10, 1, 500)),
            "city": random.choice(["Kiel", "Köln"], 500),
            "label": random.choice(["yes", "no"], 500),
        }
    )


@pytest.fixture(params=["people.parquet", "people.csv", "people.data"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix in (".csv", ".data"):
        has_names = path.suffix == ".csv"
        csv.write_csv(table(), path, csv.WriteOptions(include_header=has_names))
    else:
        pq.write_table(table(), path)
    return path


def test_the_draft_leads_to_the_contract_of_the_bare_source(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "spec.toml"

    written = init(str(source), out)

    assert written["spec"] == str(out)
    assert f'source = "{source.name}"' in out.read_text("utf-8")  # they may move together
    kinds = []
    for text, home in ((str(out), "drafted"), (str(source), "bare")):
        stage = ingest_dataset(load_spec(text), Home(tmp_path / home))
        contract = open_snapshot(Path(stage.value["path"])).contract
        kinds.append([(column.name, column.kind) for column in contract.columns])
    assert kinds[0] == kinds[1]


def test_every_column_is_explained(source: Path) -> None:
    text = init(str(source))["text"]

    names = table().column_names
    for name in names if source.suffix != ".data" else [f"f{k}" for k in range(len(names))]:
        assert any(name in line and "#" in line for line in text.splitlines()), text
    assert f'source = "{source}"' in text


def test_a_spec_that_is_there_is_not_written_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "spec.toml"
    out.write_text("mine", encoding="utf-8")

    with pytest.raises(SpecError, match="is there already"):
        init(str(source), out)
    with pytest.raises(SpecError, match="is a spec already"):
        init(str(out))

    assert out.read_text("utf-8") == "mine"


def test_a_source_without_rows_cannot_be_guessed_from(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(table().slice(0, 0), path)

    with pytest.raises(SourceError):
        init(str(path))


def test_the_command_prints_toml_and_nothing_else(source: Path, tmp_path: Path) -> None:
    printed = latents("init", source, home=tmp_path / "home")
    as_json = latents("init", source, "--json", home=tmp_path / "home")

    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == json.loads(as_json.stdout)["text"]
    out = tmp_path / "printed.toml"
    out.write_text(printed.stdout, encoding="utf-8")
    assert load_spec(str(out)).dataset.name == "people"
