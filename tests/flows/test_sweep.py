"""A sweep is one table: each member trained and measured, none registered."""

import csv
from pathlib import Path

import pytest

from data import catalog
from flows.settings import Home
from flows.spec import SpecError, load_spec
from flows.sweep import members, run_sweep

SETTINGS = ["training.epochs=2", "model.hidden=[8]", "evaluation.rows=20"]


def test_members_are_the_product_of_the_swept_settings(digits: Path) -> None:
    spec = load_spec(
        str(digits), ['sweep."model.latents"=[2, 3]', 'sweep."training.seed"=[0, 1]', *SETTINGS]
    )

    settings = [tuple(each.values()) for each, _ in members(spec)]
    specs = [member for _, member in members(spec)]

    assert settings == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert [(s.model.latents, s.training.seed) for s in specs] == settings
    assert all(not s.sweep and s.training.epochs == 2 for s in specs)


def test_a_sweep_of_a_key_that_does_not_exist_is_refused(digits: Path) -> None:
    spec = load_spec(str(digits), ['sweep."model.latent"=[2]'])

    with pytest.raises(SpecError, match=r"unknown key model\.latent; did you mean 'latents'\?"):
        list(members(spec))


def test_a_sweep_measures_all_and_finds_what_it_measured(digits: Path, tmp_path: Path) -> None:
    spec = load_spec(str(digits), ['sweep."model.latents"=[2, 3]', *SETTINGS])
    home = Home(tmp_path / "home")

    first = run_sweep(spec, home)
    again = run_sweep(spec, home)

    assert again == first
    assert [row["settings"] for row in first["sweep"]] == [
        {"model.latents": 2},
        {"model.latents": 3},
    ]
    with Path(first["curves"]).open() as file:
        curves = list(csv.DictReader(file))
    assert {row["model.latents"] for row in curves} == {"2", "3"}
    assert all(float(row["samples"]) > 0 for row in curves)
    assert not (home.root / "mlflow.db").exists()


@pytest.mark.parametrize("name", [name for name in catalog.names() if name != "mnist"])
def test_an_experiment_says_how_to_get_its_data_and_all_its_members_are_valid(
    name: str, digits: Path
) -> None:
    with pytest.raises(SpecError, match=r"--set dataset\.source=PATH"):
        load_spec(name)

    assert len(list(members(load_spec(name, [f"dataset.source={digits}"])))) >= 4
