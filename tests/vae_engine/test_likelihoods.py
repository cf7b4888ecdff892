"""Rows of mixed columns: masses, units, missing cells, and where the decoder starts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.vae_engine.rows import MIXED, MORE, PICTURE, random_model, sampled, table
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.evaluation import evaluate
from vae_engine.likelihoods.categorical import Categorical, Ordinal, tables
from vae_engine.likelihoods.counts import NegativeBinomial
from vae_engine.likelihoods.paced import PACE
from vae_engine.likelihoods.rows import RowLikelihood
from vae_engine.model import VAE, build_model
from vae_engine.statistics import Statistics
from vae_engine.training import fit, minibatches, new_state

close = torch.testing.assert_close
DISCRETE = (
    "bernoulli",
    "categorical",
    "ordinal",
    "poisson",
    "negative_binomial",
    "zero_inflated_negative_binomial",
    "discretized_logistic",
)

VALUES = {"bernoulli": 2, "discretized_logistic": 16}
MASSES = [c for c in (*MIXED, *MORE) if c.likelihood in DISCRETE]


def one(column: Column) -> VAE:
    return random_model(ModelConfig(columns=(column,), latents=2, hidden=(8,))).double()


def z(rows: int, latents: int = 2) -> Tensor:
    return torch.randn(1, rows, latents, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("column", MASSES, ids=lambda column: column.likelihood)
def test_masses_sum_to_one(column: Column) -> None:
    """B21, B22: over every value that there is, or 4,000 counts."""
    values = column.categories or VALUES.get(column.likelihood, 4000)
    x = torch.arange(values, dtype=torch.float64)[:, None]
    model = one(column)

    log_mass = model.log_likelihood(x, z(1).expand(1, values, 2))
    assert log_mass.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "name", ["age", "change", "income", "height", "weight", "share", "gust"]
)
def test_densities_integrate_to_one_in_the_units_of_the_column(name: str) -> None:
    """B23: over values, not over what they were standardized to."""
    column = next(c for c in (*MIXED, *MORE) if c.name == name)
    low, high = (0.0, 4.0) if name == "share" else (-60.0, 60.0)
    encoded = torch.linspace(low, high, 400_001, dtype=torch.float64)[:, None]
    assert isinstance(column.shift, float)
    assert isinstance(column.scale, float)
    value = encoded if name == "share" else column.shift + column.scale * encoded
    value = value.exp() if column.likelihood == "log_normal" else value
    density = one(column).log_likelihood(encoded, z(1).expand(1, len(encoded), 2))[0].exp()

    assert torch.trapezoid(density, value[:, 0]).item() == pytest.approx(1, abs=2e-4)


def test_the_likelihood_does_not_depend_on_how_a_column_was_standardized() -> None:
    """B23: the same values under two encodings, with decoders that say the same of them."""
    plain = Column(name="a", likelihood="gaussian")
    scaled = Column(name="a", likelihood="gaussian", shift=3.0, scale=2.0)
    left, right = one(plain), one(scaled)
    right.load_state_dict(left.state_dict())
    with torch.no_grad():  # mean' = (mean - shift) / scale, s' = s / scale, floor and all
        right.get_parameter("tail.weight").div_(2)
        right.tail.bias.copy_((left.tail.bias - 3) / 2)
        for model, scale in ((left, 2.0), (right, 1.0)):
            model.get_submodule("likelihood.blocks.0.family.log_scale").floor = 0.0  # type: ignore[assignment]
            model.get_parameter("likelihood.blocks.0.family.log_scale.raw").fill_(
                math.log(scale)
            )
    value = torch.tensor([[2.0], [5.5]], dtype=torch.float64)

    close(left.log_likelihood(value, z(2)), right.log_likelihood((value - 3) / 2, z(2)))


@pytest.mark.parametrize("power", [-70, 50])
@pytest.mark.parametrize("likelihood", ["student_t_per_row", "student_t", "gaussian"])
def test_units_may_be_beyond_what_float32_holds(likelihood: str, power: int) -> None:
    """Constants of nature: values are float64 in the table, and standardized before the model."""
    x = torch.linspace(-2, 2, 5)[:, None]
    log_densities = []
    for scale in (1.0, 10.0**power):
        column = Column(name="a", likelihood=likelihood, scale=scale)
        model = random_model(ModelConfig(columns=(column,), latents=2, hidden=(8,)))
        log_densities.append(model.log_likelihood(x, z(1).float().expand(1, 5, 2)))

    plain, scaled = log_densities
    close(scaled, plain - power * math.log(10))


def test_a_row_is_the_sum_of_its_columns() -> None:
    model, x = random_model(table()), sampled(table(), 20)
    draws = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(1))
    by_column = model.log_likelihood_per_column(x, draws)

    assert by_column.shape == (4, 20, len(MIXED))
    close(by_column.sum(-1), model.log_likelihood(x, draws))


def test_columns_come_back_in_their_order() -> None:
    """Families gather their columns; each column's number is that of the column alone."""
    model, x = random_model(table()), sampled(table(), 6)
    draws = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    by_column = model.log_likelihood_per_column(x, draws)
    for k, (column, start) in enumerate(zip(MIXED, table().starts, strict=True)):
        changed = x.clone()
        changed[:, start] = 1 - changed[:, start].clamp(0, 1)
        moved = (model.log_likelihood_per_column(changed, draws) != by_column).any(0).any(0)
        assert moved.nonzero().flatten().tolist() in ([k], []), column.name


def test_the_value_behind_a_missing_cell_changes_nothing() -> None:
    """The bound is that of the observed cells: NaN adds 0 and its neighbours stay as they are."""
    model, x = random_model(table()), sampled(table(), 10)
    draws = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(1))
    whole = model.log_likelihood_per_column(x.nan_to_num(0.0), draws)
    for entry in range(table().features):
        holed = x.nan_to_num(0.0)
        holed[:, entry] = torch.nan
        by_column = model.log_likelihood_per_column(holed, draws)
        assert by_column.isfinite().all()
        lost = [k for k, s in enumerate(table().starts) if s <= entry][-1]
        kept = [k for k in range(len(MIXED)) if k != lost]
        close(by_column[..., kept], whole[..., kept])
        if MIXED[lost].width == 1:
            assert (by_column[..., lost] == 0).all()
        assert model.posterior(holed).mean.isfinite().all()


def test_gradients_pass_around_a_missing_cell() -> None:
    model, x = build_model(table(), seed=0), sampled(table(), 10)
    x[:, :] = torch.where(
        torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan, x
    )
    model.log_likelihood(x, model.posterior(x).mean[None]).sum().backward()

    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_decoder_starts_at_the_train_marginals() -> None:
    """The mean of the first reconstruction is the mean of the train rows, where it is a number."""
    x = sampled(table(), 4000)
    statistics = Statistics.of(table(), x)
    likelihood = RowLikelihood(table(), statistics)
    start = likelihood.mean(likelihood.initial_outputs().expand(1, 1, -1))[0, 0]
    numbers = [k for k, c in enumerate(MIXED[:-1]) if not c.categories]

    close(start[numbers], statistics.mean[numbers], rtol=1e-4, atol=1e-4)
    observed = x[:, 3]
    ordinal = likelihood.log_prob_per_column(
        x, likelihood.initial_outputs().expand(1, len(x), -1)
    )
    shares = torch.bincount(observed.long(), minlength=4) / len(x)
    entropy = -(shares * shares.log()).nan_to_num(0.0).sum()
    close(-ordinal[0, :, 3].mean(), entropy, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("columns", [MIXED, MORE[:-1]], ids=["mixed", "more"])
def test_sampled_cells_have_the_means_that_are_modelled(columns: tuple[Column, ...]) -> None:
    """See Note [Statistical tests]: 60,000 draws of one row; z = 4 for a dozen cells."""
    model = random_model(table(columns=columns))
    outputs = model.decode(torch.zeros(1, 60_000, 3)).detach()
    cells = model.likelihood.sample(outputs, torch.Generator().manual_seed(4))[0]
    starts = zip(columns, model.config.starts, strict=True)
    for entry in (start for column, start in starts if not column.categories):
        expected = model.likelihood.mean(outputs[:, :1])[0, 0, entry]
        stderr = cells[:, entry].std() / math.sqrt(60_000)
        assert abs(cells[:, entry].mean() - expected) < 4 * stderr, entry


def test_sampled_codes_have_the_shares_that_are_modelled() -> None:
    """The standard error of a share over 60,000 draws is below 0.5 / 245; z = 4."""
    model = random_model(table(columns=(*MIXED, MORE[-1])))
    outputs = model.decode(torch.zeros(1, 60_000, 3)).detach()
    cells = model.likelihood.sample(outputs, torch.Generator().manual_seed(4))[0]
    for entry, column, categories in ((1, 1, 5), (3, 3, 4), (11, 9, 16)):
        shares = torch.bincount(cells[:, entry].long(), minlength=categories) / 60_000
        x = torch.zeros(categories, model.config.features)
        x[:, entry] = torch.arange(categories)
        log_mass = model.log_likelihood_per_column(x, torch.zeros(1, categories, 3))[
            0, :, column
        ]
        close(shares, log_mass.exp(), rtol=0, atol=4 * 0.5 / math.sqrt(60_000))


def test_pixels_are_measured_in_intensities() -> None:
    """A Gaussian column of pixels 0..255 has the density of x / 255, and its mean is in (0, 1)."""
    column = Column(name="i", likelihood="gaussian", width=12, scale=255.0, image=(4, 3, 1))
    unit = Column(name="i", likelihood="gaussian", width=12, scale=1.0, image=(4, 3, 1))
    left, right = one(column), one(unit)
    right.load_state_dict(left.state_dict())
    x = torch.randint(0, 256, (5, 12), generator=torch.Generator().manual_seed(1)).double()

    close(left.log_likelihood(x, z(5)), right.log_likelihood(x / 255, z(5)))
    close(left.posterior(x).mean, right.posterior(x / 255).mean)
    assert ((left.reconstruct(z(5)[0]) > 0) & (left.reconstruct(z(5)[0]) < 255)).all()


def test_a_constant_column_does_not_make_the_density_grow_without_limit() -> None:
    column = Column(name="a", likelihood="gaussian")
    config = ModelConfig(columns=(column,), latents=2, hidden=(8,))
    model = build_model(config, seed=0, statistics=Statistics.of(config, torch.zeros(50, 1)))
    with torch.no_grad():
        model.get_parameter("likelihood.blocks.0.family.log_scale.raw").fill_(-1e9)

    best = model.log_likelihood(model.reconstruct(torch.zeros(1, 2)), torch.zeros(1, 1, 2))
    assert best.item() == pytest.approx(-math.log(0.01) - 0.5 * math.log(2 * math.pi), rel=1e-4)


def test_a_scale_that_was_chosen_is_not_learned() -> None:
    column = next(c for c in MORE if c.name == "height")
    model = one(column)
    point = model.reconstruct(z(1)[0])

    names = [name for name, _ in model.named_parameters() if "likelihood" in name]
    assert names == []
    peak = model.log_likelihood(point, z(1)).item()
    assert peak == pytest.approx(-math.log(0.4 * 9) - 0.5 * math.log(2 * math.pi))


def test_a_fixed_and_a_learned_scale_live_in_one_row() -> None:
    columns = (MIXED[0], MORE[1], MIXED[8])
    model = random_model(table(columns=columns))
    x = sampled(table(columns=columns), 7)
    draws = torch.zeros(1, 7, 3)

    by_column = model.log_likelihood_per_column(x, draws)
    close(by_column.sum(-1), model.log_likelihood(x, draws))
    assert by_column.shape == (1, 7, 3)


@pytest.mark.parametrize(
    "likelihood", ["continuous_bernoulli", "gaussian_per_row", "bernoulli"]
)
def test_pixels_start_at_their_train_means(likelihood: str) -> None:
    policy = "dynamic" if likelihood == "bernoulli" else "none"
    column = replace(PICTURE, likelihood=likelihood, binarization=policy)
    config = ModelConfig(columns=(column,), latents=2)
    x = torch.rand(100, 12, generator=torch.Generator().manual_seed(0)) * 200 + 20
    likelihood_of_rows = RowLikelihood(config, Statistics.of(config, x))

    start = likelihood_of_rows.mean(likelihood_of_rows.initial_outputs()[None, None])[0, 0]
    close(start, x.mean(0), rtol=1e-3, atol=1e-2)


def test_a_row_unlike_all_others_costs_nats_and_not_hundreds() -> None:
    """Ten spreads from where it was expected: 50 nats by a normal density, 10 by Student's t."""
    lost = {}
    for likelihood in ("gaussian_per_row", "student_t_per_row"):
        column = Column(name="v", likelihood=likelihood)
        rows = RowLikelihood(ModelConfig(columns=(column,), latents=1), None)
        outputs = rows.initial_outputs()[None, None]
        near, far = (rows.log_prob(torch.tensor([[x]]), outputs).item() for x in (0.0, 10.0))
        lost[likelihood] = near - far

    assert lost["gaussian_per_row"] == pytest.approx(50, rel=0.01)
    assert lost["student_t_per_row"] == pytest.approx(3.5 * math.log1p(100 / 6), rel=0.01)


def test_eight_bit_pixels_are_the_same_as_floats() -> None:
    model = one(PICTURE).float()
    x = (
        torch.randint(
            0, 2, (5, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
        )
        * 255
    )

    draws = torch.zeros(1, 5, 2)
    assert torch.equal(model.log_likelihood(x, draws), model.log_likelihood(x.float(), draws))
    assert torch.equal(model.posterior(x).mean, model.posterior(x.float()).mean)


def test_columns_of_codes_are_gathered_where_padding_is_cheap() -> None:
    """Narrow ones together; one of thousands does not make every other as wide."""
    assert [table.members for table in tables([7, 3, 3, 5000, 41])] == [[1, 2, 0, 4], [3]]


def test_gathered_codes_have_the_masses_of_single_columns() -> None:
    """Each against its own softmax, and their gradients; an even table is not padded."""
    generator = torch.Generator().manual_seed(0)
    for sizes in ([4, 2, 9, 300], [3, 3]):
        columns = [
            Column(name=str(k), likelihood="categorical", categories=size)
            for k, size in enumerate(sizes)
        ]
        family = Categorical(columns, [torch.full((size,), 1 / size) for size in sizes])
        outputs = torch.randn(2, 5, sum(sizes), generator=generator, requires_grad=True)
        codes = torch.stack(
            [torch.randint(0, size, (5,), generator=generator) for size in sizes], -1
        )
        found = family.log_prob(codes.float(), outputs)
        parts = [part.log_softmax(-1) for part in outputs.split(sizes, -1)]
        expected = torch.stack(
            [part[:, range(5), codes[:, k]] for k, part in enumerate(parts)], -1
        )

        torch.testing.assert_close(found, expected)
        (one,) = torch.autograd.grad(found.sum(), [outputs], retain_graph=True)
        (other,) = torch.autograd.grad(expected.sum(), [outputs])
        torch.testing.assert_close(one, other)
        modes = torch.stack([part.argmax(-1) for part in parts], -1)
        assert torch.equal(family.mean(outputs), modes.float())


def test_the_mass_of_an_ordinal_code_and_its_gradient_are_those_among_all_codes() -> None:
    """The first and the last code too, of which one cut is infinite."""
    columns = [Column(name=str(k), likelihood="ordinal", categories=k) for k in (2, 5)]
    family = Ordinal(columns, [torch.full((k,), 1 / k) for k in (2, 5)])
    outputs = torch.randn(1, 10, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    codes = torch.stack([torch.arange(10) % k for k in (2, 5)], -1)
    found = family.log_prob(codes.float(), outputs)
    masses = [family._log_masses(outputs, k) for k in range(2)]
    expected = torch.stack([m[:, range(10), codes[:, k]] for k, m in enumerate(masses)], -1)

    close(found, expected)
    learned = [outputs, *family.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), learned, retain_graph=True, allow_unused=True),
        torch.autograd.grad(expected.sum(), learned, allow_unused=True),
        strict=True,
    ):
        close(mine, theirs)


def test_counts_that_z_explains_are_near_poisson_after_some_hundred_steps() -> None:
    """Rows of two kinds, Poisson in each: over all of them the variance is 20 times the mean."""
    draw = torch.Generator().manual_seed(0)
    kind = torch.randint(2, (2000, 1), generator=draw)
    busy = torch.arange(12) % 2
    rates = torch.where(kind == busy, 40.0, 1.0)
    x = torch.poisson(rates, generator=draw)
    columns = [Column(name=f"n{k}", likelihood="negative_binomial") for k in range(12)]
    config = ModelConfig(columns=tuple(columns), latents=2, hidden=(32,))
    plan = TrainingPlan(seed=0, epochs=20, batch_rows=100, learning_rate=3e-3)
    state = new_state(config, plan, Statistics.of(config, x))
    family = state.model.likelihood.blocks[0].family
    assert isinstance(family, NegativeBinomial)
    assert family.log_total().detach().exp().median() < 2
    for _ in fit(state, minibatches(x, plan)):
        pass

    known = torch.distributions.Poisson(rates).log_prob(x).sum(1).mean() - math.log(2)
    found = evaluate(state.model, [(x, torch.arange(len(x)))], samples=8, seed=0)
    assert family.log_total().detach().exp().min() > 20
    assert known - 3.0 < found.elbo.mean < known + 3 * found.elbo.stderr


def test_a_total_that_went_far_is_a_poisson_still() -> None:
    """Of Poisson counts no total is too large, and Adam takes full steps on what is all but flat."""
    columns = [Column(name="n", likelihood="negative_binomial", width=3)]
    family = NegativeBinomial(columns, torch.full((3,), 4.0), torch.full((3,), 2.0))
    x, outputs = torch.tensor([[0.0, 3.0, 9.0]]), torch.full((1, 1, 3), math.log(4))
    for log_total in (16.0, 100.0, 10_000.0):
        family.log_total.slow.data.fill_(log_total / PACE)
        found = family.log_prob(x, outputs)
        (slope,) = torch.autograd.grad(found.sum(), family.log_total.slow)
        close(found, family.rate.log_prob(x, outputs), rtol=1e-5, atol=1e-5)
        assert bool(slope.isfinite().all())
        assert bool(family.sample(outputs, torch.Generator().manual_seed(0)).isfinite().all())


def test_codes_that_z_explains_are_sharp_after_some_hundred_steps() -> None:
    """Six ordinals that are one number, read with a little noise; log p(x) by quadrature."""
    draw = torch.Generator().manual_seed(0)
    cuts, noise = torch.tensor([-1.2, -0.4, 0.3, 1.1]), 0.15
    truth = torch.randn(4000, 1, generator=draw)
    x = torch.bucketize(truth + noise * torch.randn(4000, 6, generator=draw), cuts).float()
    columns = tuple(Column(name=f"o{k}", likelihood="ordinal", categories=5) for k in range(6))
    config = ModelConfig(columns=columns, latents=2, hidden=(32,))
    plan = TrainingPlan(seed=0, epochs=20, batch_rows=100, learning_rate=3e-3)
    state = new_state(config, plan, Statistics.of(config, x))
    for _ in fit(state, minibatches(x, plan)):
        pass

    normal, ends = torch.distributions.Normal(0.0, 1.0), torch.tensor([-torch.inf, torch.inf])
    grid = torch.linspace(-6, 6, 2001)
    edges = torch.cat([ends[:1], cuts, ends[1:]])
    masses = normal.cdf((edges - grid[:, None]) / noise).diff().clamp(min=1e-38).log()
    joint = masses[:, x.long()].sum(-1) + normal.log_prob(grid)[:, None]
    known = torch.logsumexp(joint, 0).mean() + math.log(12 / 2000)
    found = evaluate(state.model, [(x, torch.arange(len(x)))], samples=8, seed=0)
    assert known - 0.5 < found.elbo.mean < known + 3 * found.elbo.stderr
