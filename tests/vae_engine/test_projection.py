"""Principal components in the place of inputs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from tests.vae_engine.rows import MIXED, plan, sampled
from vae_engine import checkpoint
from vae_engine.config import Column, ConfigError, ModelConfig
from vae_engine.evaluation import evaluate
from vae_engine.model import build_model
from vae_engine.projection import Projection
from vae_engine.statistics import Statistics
from vae_engine.training import fit, minibatches, new_state

close = torch.testing.assert_close
WIDE = ModelConfig(
    columns=(Column(name="genes", likelihood="gaussian", width=200),), latents=2, hidden=(50,)
)


def measured(rows: Tensor, components: int, projected: range | None = None) -> Projection:
    width = rows.shape[1]
    projection = Projection(width, projected or range(width), components, torch.Generator())
    projection.measure(rows)
    return projection


@pytest.mark.parametrize("rows", [12, 300])
def test_components_are_those_of_a_library(rows: int) -> None:
    """Up to their signs, and divided by one number; 40 inputs, fewer and more rows than that."""
    x = 3 + torch.randn(rows, 40, generator=torch.Generator().manual_seed(1)).cumsum(-1)
    found = measured(x, 5)(x)
    expected = torch.from_numpy(PCA(5, svd_solver="full").fit_transform(x.double().numpy()))

    assert found.square().mean().item() == pytest.approx(1, abs=1e-4)
    expected *= (found.double() * expected).sum(0).sign()
    close(found.double(), expected / expected.square().mean().sqrt(), rtol=1e-3, atol=1e-3)


def test_the_order_of_rows_and_their_number_leave_components_alone() -> None:
    """Of rows that say nothing new; the last components, of no variance, are 0."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(2)) @ torch.randn(2, 30)
    once, twice = measured(x, 4), measured(torch.cat([x.flip(0), x]), 4)

    close(once(x), twice(x), rtol=1e-4, atol=1e-4)
    assert bool((once(x)[:, :2].abs() > 1e-3).all())
    assert bool((once(x)[:, 2:] == 0).all())


@pytest.mark.parametrize("x", [torch.full((5, 8), 7.0), torch.ones(1, 8)])
def test_rows_that_do_not_differ_have_components_of_zero(x: Tensor) -> None:
    assert bool((measured(x, 3)(x) == 0).all())


def test_what_is_not_projected_is_passed_on() -> None:
    x = torch.randn(20, 9, generator=torch.Generator().manual_seed(3))
    seen = measured(x, 2, range(1, 8))(x)

    assert seen.shape == (20, 4)
    close(seen[:, :2], measured(x[:, 1:8], 2)(x[:, 1:8]))
    assert torch.equal(seen[:, 2:], x[:, [0, 8]])


def test_directions_are_found_from_rows_all_over_a_table() -> None:
    """A file may be sorted by what its rows are."""
    x = torch.arange(10_000.0)[:, None].expand(-1, 200)
    known = Statistics.of(replace(WIDE, principal_components=2), x).examples

    assert len(known) == 4096
    assert known[-1, 0] > 9_990


@pytest.mark.parametrize(
    ("columns", "components", "width"),
    [
        (WIDE.columns, 4, 4),
        ((*MIXED[:2], *WIDE.columns), 4, 4 + 2 + 5),  # a number, its mark, and five indicators
        (MIXED[:2], 4, 4),  # no vector: everything
        (MIXED[-1:], 4, 4),  # narrower than the components
        ((replace(MIXED[1], categories=70), MIXED[2]), 1, 1 + 16),  # vectors that are learned
        ((replace(MIXED[1], categories=70),), 1, 16),
    ],
)
def test_an_encoder_sees_components_of_the_widest_columns(
    columns: tuple[Column, ...], components: int, width: int
) -> None:
    config = ModelConfig(columns=columns, principal_components=components)
    model = build_model(config, seed=0)

    assert model.seen(sampled(config, 6)).shape == (6, width)


def test_a_random_projection_stands_in_where_no_row_is_known() -> None:
    config = replace(WIDE, principal_components=3)
    one, other = (build_model(config, seed=seed) for seed in (0, 1))
    x = torch.randn(500, 200, generator=torch.Generator().manual_seed(4))

    assert one.seen(x).var(0).mean().item() == pytest.approx(1, abs=0.3)
    assert not torch.equal(one.seen(x), other.seen(x))


def drawn(rows: int, seed: int) -> Tensor:
    """200 columns with two factors in common; exact log p(x) is that of a factor analysis."""
    loadings = torch.randn(2, 200, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 200, generator=generator)
    return (torch.randn(rows, 2, generator=generator) @ loadings + noise) / 3**0.5


def test_components_stay_as_they_are_and_come_back_with_a_checkpoint(tmp_path: Path) -> None:
    x = drawn(40, seed=0)
    config, settled = replace(WIDE, principal_components=3), plan(steps=4)
    state = new_state(config, settled, Statistics.of(config, x))
    begun = [tensor.clone() for tensor in state.model.measured()]
    for _ in fit(state, minibatches(x, settled)):
        pass
    checkpoint.save(tmp_path, state, {})
    other = new_state(config, settled)  # of no rows
    checkpoint.load_latest(tmp_path, other)

    for before, after, loaded in zip(
        begun, state.model.measured(), other.model.measured(), strict=True
    ):
        assert torch.equal(before, after)
        assert torch.equal(before, loaded)


def test_fewer_rows_than_columns_are_not_learned_by_heart() -> None:
    """The bound of rows that were not trained on; with six seeds components brought 19 to 22."""
    x, unseen = drawn(100, seed=0), drawn(400, seed=1)
    settled = plan(steps=300, batch_rows=50, learning_rate=3e-3)

    def elbo_of_unseen(config: ModelConfig) -> float:
        state = new_state(config, settled, Statistics.of(config, x))
        for _ in fit(state, minibatches(x, settled)):
            pass
        rows = [(unseen, torch.arange(400))]
        return evaluate(state.model, rows, samples=4, seed=0).elbo.mean

    assert elbo_of_unseen(replace(WIDE, principal_components=4)) > elbo_of_unseen(WIDE) + 10


def test_pictures_of_a_convolution_are_not_hidden_from_it() -> None:
    columns = (Column(name="image", likelihood="gaussian", width=16, image=(4, 4, 1)),)

    with pytest.raises(ConfigError, match="principal_components hide the pixels from"):
        ModelConfig(columns=columns, network="conv", hidden=(4,), principal_components=2)
