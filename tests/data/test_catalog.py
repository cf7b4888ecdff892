import tomllib

import pytest

from data import catalog
from data.contract import UnknownNameError
from data.snapshot import ingest


@pytest.mark.parametrize("name", catalog.names())
def test_every_spec_in_the_catalog_parses_and_is_named_after_its_file(name: str) -> None:
    spec = tomllib.loads(catalog.find(name).read_text("utf-8"))

    assert spec["dataset"]["name"] == name


def test_mnist_runs_on_the_bundled_digits(tmp_path_factory: pytest.TempPathFactory) -> None:
    spec = catalog.find("mnist")
    dataset = tomllib.loads(spec.read_text("utf-8"))["dataset"]
    snapshot = ingest(
        spec.parent / dataset["source"],
        name=dataset["name"],
        label=dataset["label"],
        root=tmp_path_factory.mktemp("root"),
    )

    assert snapshot.rows == 10_000
    assert snapshot.contract["image"].entries == 784
    assert (snapshot.contract.label, snapshot.key) == ("label", "row_id")


def test_an_unknown_name_gets_the_near_miss() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown catalog name 'mnst'; did you mean 'mnist'"
    ):
        catalog.find("mnst")
