"""Settings: complete, frozen, and refusing what they do not know."""

import json
from time import perf_counter

import pytest

from tests.vae_engine.rows import plan, table
from vae_engine.config import Column, ConfigError, ModelConfig, TrainingPlan


def test_settings_survive_json() -> None:
    config = json.loads(json.dumps(table().to_mapping()))

    assert ModelConfig.from_mapping(config, source="there") == table()
    assert (
        TrainingPlan.from_mapping(json.loads(json.dumps(plan().to_mapping())), source="there")
        == plan()
    )


def test_unknown_keys_are_refused_with_the_near_miss_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingPlan.from_mapping({"epoch": 3, "bananas": 1}, source="spec.toml")
    assert str(caught.value) == (
        "spec.toml: unknown key 'epoch'; did you mean 'epochs'?; unknown key 'bananas'; known "
        f"keys: {sorted(TrainingPlan.__dataclass_fields__)}; key 'seed' is required"
    )


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingPlan(
            seed=1, epochs=0, batch_rows=-1, learning_rate=float("nan"), optimizer="adamm"
        )
    assert str(caught.value) == (
        "training: epochs is 0; it must be a whole number, at least 1; batch_rows is -1; it must "
        "be a whole number, at least 1; learning_rate is nan; it must be a finite number above 0; "
        "optimizer is 'adamm'; did you mean 'adam'?"
    )


def test_a_plan_has_one_length() -> None:
    with pytest.raises(ConfigError, match="give either epochs or steps"):
        TrainingPlan(seed=1)
    with pytest.raises(ConfigError, match="give either epochs or steps"):
        TrainingPlan(seed=1, epochs=1, steps=1)


def test_a_run_counts_its_short_last_batches() -> None:
    assert TrainingPlan(seed=1, epochs=3, batch_rows=10).total_steps(21) == 9
    assert TrainingPlan(seed=1, steps=5, batch_rows=10).total_steps(21) == 5


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"likelihood": "gausian"}, "did you mean 'gaussian'?"),
        (
            {"likelihood": "categorical"},
            "categories is 0; it must be a whole number, at least 2",
        ),
        (
            {"likelihood": "gaussian", "image": (2, 2, 1)},
            "image (2, 2, 1) has 4 entries, not 1",
        ),
        (
            {"likelihood": "gaussian", "binarization": "dynamic"},
            "is for the bernoulli likelihood",
        ),
        (
            {"likelihood": "gaussian", "width": 3, "shift": (1.0,)},
            "shift has 1 numbers for 3 entries",
        ),
        ({"likelihood": "gaussian", "scale": 0.0}, "scale is 0.0; it must be a finite number"),
    ],
)
def test_a_column_says_what_is_wrong_with_it(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Column.from_mapping({"name": "a", **settings}, source="there")
    assert fault in str(caught.value)


def test_columns_have_places_in_a_row() -> None:
    assert table().features == 11
    assert table().starts == (0, 1, 2, 3, 4, 5, 6, 7, 8)


def test_two_columns_of_one_name_are_refused() -> None:
    column = Column(name="a", likelihood="gaussian")

    with pytest.raises(ConfigError, match="column 'a' occurs twice"):
        ModelConfig(columns=(column, column))
    with pytest.raises(ConfigError, match="columns is empty"):
        ModelConfig(columns=())


def test_what_a_model_costs_to_describe_grows_with_its_columns() -> None:
    """20,000 columns took minutes when the start of each was summed up anew."""
    columns = tuple(Column(name=f"x{k}", likelihood="gaussian") for k in range(20_000))
    started = perf_counter()
    config = ModelConfig(columns=columns)

    assert [config.starts[k] for k in range(20_000)] == list(range(20_000))
    assert perf_counter() - started < 5
