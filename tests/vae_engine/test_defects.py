"""Twenty-eight defects found in other people's code, each with the test that would have caught it.

STATISTICS, part 1, gives the number, the project and the lines. What a test here checks, other
files of this folder check more widely; this one shows that none was forgotten.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from data.splits import split_of
from tests.exact import LinearGaussian, draws
from tests.vae_engine.rows import grey, pictures, plan, random_model, sampled, table
from vae_engine import checkpoint, densities, objectives
from vae_engine.aggregate import log_aggregate
from vae_engine.annealing import AnnealingPlan, sandwich
from vae_engine.config import Column, ConfigError, ModelConfig
from vae_engine.diagnostics import pareto_k
from vae_engine.encoding import encode
from vae_engine.evaluation import evaluate
from vae_engine.hmc import evaluate as point_at
from vae_engine.hmc import leapfrog
from vae_engine.marginal import estimate_log_marginal, log_marginal
from vae_engine.model import build_model
from vae_engine.noise import keyed_noise
from vae_engine.posteriors import DiagonalNormal
from vae_engine.statistics import Statistics
from vae_engine.stopping import EarlyStopping
from vae_engine.training import Batch, batch_indices, fit, minibatches, new_state, train_step

close = torch.testing.assert_close
X, KEYS = sampled(table(), 103), torch.arange(103)
TOY = ModelConfig(
    columns=(Column(name="v", likelihood="gaussian", width=3),), latents=2, hidden=(4,)
)


def standard(q: DiagonalNormal) -> Tensor:
    """KL(q || N(0, I)) of each row, by torch."""
    normal = distributions.Normal(q.mean, q.stddev)
    return distributions.kl_divergence(normal, distributions.Normal(0.0, 1.0)).sum(-1)


def test_b01_the_loss_is_minus_the_hand_computed_elbo_and_so_is_what_is_validated() -> None:
    """Means over features, sums over latents and a KL weight nobody can name made beta 1.54."""
    state = new_state(TOY, plan())
    x = draws(2, 3).float()
    report = train_step(state, Batch(x), report=True)
    model = new_state(TOY, plan()).model
    noise = keyed_noise(0, KEYS[:2], 0, 1, 2)
    q = model.posterior(x)
    assert isinstance(q, DiagonalNormal)
    outputs = model.decode(q.mean + q.stddev * noise)
    scale = model.get_submodule("likelihood.blocks.0.family.log_scale")().exp()
    by_hand = distributions.Normal(outputs[0], scale).log_prob(x).sum(-1) - standard(q)

    assert report is not None
    assert report.objective_nats == pytest.approx(report.elbo_nats, rel=1e-5)
    validated = evaluate(model, [(x, KEYS[:2])], samples=1, seed=0).elbo.mean
    assert validated == pytest.approx(by_hand.mean().item(), rel=1e-5)
    close(objectives.elbo(model, x, noise), by_hand)


def test_b02_a_latent_that_equals_the_prior_leaves_the_bound_unchanged() -> None:
    """Means over latents made beta depend on how many there are."""
    narrow, wide = random_model(table()), random_model(table(latents=5))
    weights = narrow.state_dict()
    head, tail = weights["head.weight"], weights["decoder.layers.0.weight"]
    nothing = torch.zeros(2, head.shape[1])
    weights["head.weight"] = torch.cat([head[:3], nothing, head[3:], nothing])
    bias = weights["head.bias"]
    weights["head.bias"] = torch.cat([bias[:3], torch.zeros(2), bias[3:], torch.zeros(2)])
    weights["decoder.layers.0.weight"] = torch.cat([tail, torch.zeros(len(tail), 2)], 1)
    wide.load_state_dict(weights)
    noise = keyed_noise(0, KEYS, 0, 2, 5)

    close(objectives.elbo(wide, X, noise), objectives.elbo(narrow, X, noise[..., :3]))


def test_b03_a_kl_is_one_number_a_row_and_that_of_torch() -> None:
    q = random_model(table()).posterior(X)
    assert isinstance(q, DiagonalNormal)

    assert q.kl_from_prior().shape == (103,)
    close(q.kl_from_prior(), standard(q))


def test_b04_no_factor_of_two_no_lost_constant_and_the_encoder_is_kept() -> None:
    x, mean = draws(4, seed=1), draws(4, seed=2)
    bound = densities.normal(x, mean, torch.zeros(4).double())

    close(bound, -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi))
    state = new_state(TOY, plan())
    assert encode(state.model, draws(5, 3).float())[0].shape == (5, 2)


def test_b05_the_bound_of_the_same_rows_does_not_depend_on_the_batch() -> None:
    """A KL summed over the batch and added to a mean grows with the batch."""
    model, noise = random_model(table()), keyed_noise(0, KEYS, 0, 1, 3)
    one = objectives.elbo(model, X, noise).mean()
    twice = objectives.elbo(model, X.repeat(2, 1), noise.repeat(1, 2, 1)).mean()

    close(one, twice)


def test_b06_batches_of_10_and_of_103_give_one_mean() -> None:
    model = random_model(table())
    whole = evaluate(model, [(X, KEYS)], samples=1, seed=0).elbo
    parts = evaluate(
        model, zip(X.split(10), KEYS.split(10), strict=True), samples=1, seed=0
    ).elbo
    means = [
        evaluate(model, [b], samples=1, seed=0).elbo.mean
        for b in zip(X.split(10), KEYS.split(10), strict=True)
    ]

    assert parts.mean == pytest.approx(whole.mean, rel=1e-6)
    assert sum(means) / len(means) != pytest.approx(whole.mean, rel=1e-6)  # the defect


@pytest.mark.parametrize("block", [0, 5, 10])
def test_b07_every_batch_counts_not_the_last(block: int) -> None:
    model, outlying = random_model(table()), X.clone()
    rows = slice(10 * block, 10 * block + 10)
    outlying[rows, 4] += 100
    plain, moved = (
        evaluate(
            model, zip(x.split(10), KEYS.split(10), strict=True), samples=1, seed=0
        ).elbo.sum
        for x in (X, outlying)
    )
    there = [
        evaluate(model, [(x[rows], KEYS[rows])], samples=1, seed=0).elbo.sum
        for x in (X, outlying)
    ]

    assert moved - plain == pytest.approx(there[1] - there[0], rel=1e-5)


def test_b08_the_reported_bound_is_log_mean_w_and_stays_below_the_truth() -> None:
    """sum w log w has the right gradient, and a value that can exceed log p(x)."""
    loose = LinearGaussian(features=5, latents=3, off=1.0)
    x = loose.sample(500)
    log_w = objectives.log_weights(loose, x, draws(50, 500, 3))
    bound = objectives.iwae(loose, x, draws(50, 500, 3))

    close(bound, log_w.logsumexp(0) - math.log(50))
    means = [objectives.iwae(loose, x, draws(k, 500, 3)).mean() for k in (1, 5, 50)]
    assert means[0] < means[1] < means[2] < loose.log_marginal(x).mean()
    assert (log_w.softmax(0) * log_w).sum(0).mean() > loose.log_marginal(x).mean()  # the defect


def test_b09_miwae_of_one_sample_is_the_elbo_and_of_one_group_iwae() -> None:
    loose = LinearGaussian(features=5, latents=3, off=0.5)
    x, noise = loose.sample(8), draws(6, 8, 3)

    close(objectives.miwae(loose, x, noise, groups=6), objectives.elbo_sampled(loose, x, noise))
    close(objectives.miwae(loose, x, noise, groups=1), objectives.iwae(loose, x, noise))


def test_b10_the_gradient_is_that_of_log_mean_exp_of_the_weights() -> None:
    model, x = random_model(table()).double(), X.double()
    noise, parameters = keyed_noise(0, KEYS, 0, 4, 3).double(), list(model.parameters())
    ours = torch.autograd.grad(objectives.iwae(model, x, noise).sum(), parameters)
    log_w = objectives.log_weights(model, x, noise)
    weighted = (log_w.softmax(0).detach() * log_w).sum()

    for one, other in zip(ours, torch.autograd.grad(weighted, parameters), strict=True):
        close(one, other)


@pytest.mark.parametrize("prior", ["standard", "mixture", "vamp", "flow"])
def test_b11_log_q_is_that_of_torch_and_a_kl_is_positive(prior: str) -> None:
    """Brackets were wrong in q and in every component of the prior. 400 draws of 103 rows; the
    error of the mean KL is measured, z = 4."""
    model = random_model(table(prior=prior, components=5))
    q, noise = model.posterior(X), keyed_noise(0, KEYS, 0, 400, 3)
    z = q.reparameterize(noise)

    close(
        q.log_prob(z),
        distributions.Normal(q.mean, q.stddev).log_prob(z).sum(-1),
        rtol=1e-3,
        atol=1e-3,
    )
    ratio = (q.log_prob(z) - model.log_prior(z)).detach()
    assert (ratio.mean(0) > -4 * ratio.std(0) / 20).all()


def test_b12_the_weights_of_the_aggregated_posterior_sum_to_one() -> None:
    one = DiagonalNormal(draws(1, 3), draws(1, 3, seed=1).exp())
    many = DiagonalNormal(one.mean.expand(9, -1), one.stddev.expand(9, -1))

    close(log_aggregate(many, draws(4, 2, 3)), one.log_prob(draws(4, 2, 3)))


@pytest.mark.parametrize("samples", [1, 10, 150])
@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_b13_as_many_samples_are_used_as_were_asked_for(samples: int, chunk: int) -> None:
    """Asking for 1, 10 or 150 used 100."""

    class Counting(LinearGaussian):
        used = 0

        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            self.used += len(z)
            return super().log_likelihood(x, z)

    model = Counting(features=5, latents=3, off=0.5)
    x = model.sample(3)
    found = estimate_log_marginal(
        model, x, KEYS[:3], samples=samples, seed=0, rows_per_chunk=3, samples_per_chunk=chunk
    )

    assert model.used == samples
    whole = estimate_log_marginal(model, x, KEYS[:3], samples=samples, seed=0)
    close(found.log_marginal_nats, whole.log_marginal_nats)
    assert (found.log_marginal_nats < 0).all()  # a log-likelihood, named so


@pytest.mark.parametrize(
    ("samples", "chunk"), [(1000, 300), (500, 300), (10, 4), (7, 7), (3, 100)]
)
def test_b14_constant_weights_give_that_constant(samples: int, chunk: int) -> None:
    """Drawing 1,200 and dividing by 1,000 adds 0.18 nats; 300 over 500 takes 0.51."""
    log_w = torch.full((samples, 2), -89.5)

    close(log_marginal(log_w.split(chunk)), torch.full((2,), -89.5))


def test_b15_leapfrog_is_reversible_preserves_volume_and_its_energy_error_is_of_second_order() -> (
    None
):
    """Position steps took the wrong momentum, in training only."""
    scales = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def terms(z: Tensor) -> tuple[Tensor, ...]:
        return ((-0.5 * (z / scales) ** 2 - 0.1 * z**4).sum(-1),)

    def end(state: Tensor, step: float, steps: int) -> Tensor:
        point = point_at(terms, state[..., :3])
        size = torch.full((1, 1), step, dtype=torch.float64)
        there, momentum = leapfrog(
            terms, torch.ones(1).double(), point, state[..., 3:], size, steps
        )
        return torch.cat([there.z, momentum], -1)

    def energy(state: Tensor) -> Tensor:
        return -terms(state[..., :3])[0] + 0.5 * state[..., 3:].square().sum(-1)

    start = draws(1, 1, 6)
    there = end(start, 0.1, 20)
    turned = torch.cat([there[..., :3], -there[..., 3:]], -1)
    back = end(turned, 0.1, 20)
    close(torch.cat([back[..., :3], -back[..., 3:]], -1), start)
    small = 1e-5 * torch.eye(6, dtype=torch.float64)
    columns = [
        (end(start + d, 0.1, 20) - end(start - d, 0.1, 20)).flatten() / 2e-5 for d in small
    ]
    close(torch.linalg.det(torch.stack(columns)), torch.tensor(1.0).double(), rtol=0, atol=1e-4)
    coarse, fine = (
        (energy(end(start, 1 / n, n)) - energy(start)).abs().item() for n in (40, 160)
    )
    assert 10 < coarse / fine < 24  # a quarter of the step, a sixteenth of the error


def test_b16_the_inverse_weights_of_several_chains_bound_from_above() -> None:
    """log mean of 1/w for minus log mean of w is right for one chain only; and step sizes were
    adapted while the weights were gathered. Means over 200 rows; errors measured, z = 4."""
    loose = LinearGaussian(features=5, latents=2, off=1.0)
    z = draws(200, 2, seed=4)
    x = z @ loose.weight.T + loose.bias + loose.scale * draws(200, 5, seed=5)
    settings = AnnealingPlan(seed=0, temperatures=20, chains=8, leapfrog_steps=2)
    found = sandwich(loose, x, z, torch.arange(200), settings)
    truth = loose.log_marginal(x)

    assert (found.lower_nats - truth).mean() < 4 * (found.lower_nats - truth).std() / 200**0.5
    assert (found.upper_nats - truth).mean() > -4 * (found.upper_nats - truth).std() / 200**0.5
    assert -0.1 < found.width_nats.mean() < 0.5


def test_b17_every_row_has_its_own_k() -> None:
    """Summing over rows gives one k for the joint data set."""
    g = np.random.default_rng(0)
    light, heavy = g.normal(size=1000) * 0.1, np.log1p(g.pareto(0.8, size=1000))
    together = pareto_k(torch.tensor(np.stack([light, heavy], 1)))

    assert together[0] < 0.5 < 0.7 < together[1]
    for k, row in enumerate((light, heavy)):
        close(together[k : k + 1], pareto_k(torch.tensor(row)[:, None]))


def test_b18_no_two_batches_share_their_noise() -> None:
    """One key for all batches correlates them, and the interval is too narrow."""
    batches = [keyed_noise(5, keys, 0, 3, 4) for keys in torch.arange(40).split(10)]

    for k, one in enumerate(batches):
        assert all(not torch.equal(one, other) for other in batches[k + 1 :])
    flat = torch.stack(batches).flatten(1).double()
    assert (flat.corrcoef() - torch.eye(4)).abs().max() < 4 / 120**0.5


def test_b19_no_row_is_in_two_splits() -> None:
    """The validation file was the test file, and was in train."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=np.uint64)
    names = split_of(np.concatenate([hashes, hashes[::-1]]), valid=0.2, test=0.2)

    assert (names[:5000] == names[5000:][::-1]).all()
    sets = {
        name: set(hashes[names[:5000] == name].tolist()) for name in ("train", "valid", "test")
    }
    assert sum(len(s) for s in sets.values()) == len(set(hashes.tolist()))


def test_b20_a_cross_entropy_of_grey_values_is_refused_and_a_continuous_bernoulli_is_a_density() -> (
    None
):
    column = Column(
        name="image", likelihood="bernoulli", width=12, scale=255.0, image=(4, 3, 1)
    )
    config = ModelConfig(columns=(column,), latents=2)
    with pytest.raises(ConfigError, match="no Bernoulli likelihood"):
        build_model(config, seed=0, statistics=Statistics.of(config, grey(9)))

    grid = torch.linspace(0, 1, 10_001).double()
    for logit in (-6.0, 0.0, 0.3, 9.0):
        density = densities.continuous_bernoulli(grid, torch.tensor(logit).double()).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-5)
    assert (
        ModelConfig.from_mapping(pictures().to_mapping(), source="b20").columns[0].binarization
        == "dynamic"
    )


def test_b21_the_masses_of_256_grey_levels_sum_to_one() -> None:
    levels = torch.arange(256.0).double()[:, None]
    means, log_scale = (
        torch.tensor([-5.0, 0.0, 128.0, 255.0]).double(),
        torch.tensor(2.0).double(),
    )
    log_mass = densities.discretized_logistic(
        levels, means, log_scale, torch.tensor(255.0).double()
    )

    close(log_mass.exp().sum(0), torch.ones(4).double())


def test_b22_no_probability_is_clamped() -> None:
    x, logits = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([300.0, -300.0, 300.0])

    assert densities.bernoulli(x, logits).tolist() == [-300, -300, 0]


def test_b23_the_likelihood_is_in_the_units_of_the_column() -> None:
    """Standardizing by 12 must add log 12 to the density of x, and a logarithm brings 1 / value."""
    scaled = Column(name="a", likelihood="gaussian", shift=5.0, scale=12.0, stddev=0.5)
    logged = Column(name="b", likelihood="log_normal", shift=1.0, scale=2.0)
    model = random_model(ModelConfig(columns=(scaled, logged), latents=2, hidden=(4,))).double()
    z, encoded = draws(1, 1, 2), draws(1, 2, seed=3)
    m = model.decode(z)[0, 0]
    s = model.get_submodule("likelihood.blocks.1.family.of_log.log_scale")().exp()
    found = model.log_likelihood_per_column(encoded, z)[0, 0]

    value = 5 + 12 * encoded[0, 0]
    close(found[0], distributions.Normal(5 + 12 * m[0], 6.0).log_prob(value))
    value = (1 + 2 * encoded[0, 1]).exp()
    close(found[1], distributions.LogNormal(1 + 2 * m[1], 2 * s[0]).log_prob(value))


@pytest.mark.parametrize("batch", [1, 10, 64, 200])
def test_b24_features_are_the_mean_of_every_row_in_order(batch: int) -> None:
    """Random samples for features; a tail of zeros; the number of rows taken from elsewhere."""
    model = random_model(table())
    mean, stddev = encode(model, X, batch_rows=batch)
    order = torch.randperm(103, generator=torch.Generator().manual_seed(0))

    assert len(mean) == len(stddev) == 103
    assert mean[-1].abs().sum() > 0
    close(mean, model.posterior(X).mean.detach())
    assert torch.equal(encode(model, X[order], batch_rows=batch)[0], mean[order])
    assert not mean.requires_grad


def test_b25_models_are_selected_by_the_plain_elbo_whatever_the_weight_of_the_kl() -> None:
    plain, warm = (new_state(table(), plan(warmup_steps=w)) for w in (0, 100))
    one, two = (train_step(s, Batch(X), report=True) for s in (plain, warm))
    before = [
        evaluate(new_state(table(), plan(beta=b)).model, [(X, KEYS)], samples=1, seed=0).elbo
        for b in (1.0, 0.1)
    ]

    assert one is not None
    assert two is not None
    assert one.elbo_nats == two.elbo_nats
    assert two.objective_nats > two.elbo_nats
    assert before[0] == before[1]


def test_b26_two_halves_are_a_whole_and_the_first_validation_is_the_best_so_far(
    tmp_path: Path,
) -> None:
    def run(steps: int, resume: bool) -> Tensor:
        state = new_state(table(), plan(steps=steps))
        if resume:
            checkpoint.load_latest(tmp_path, state)
        for _ in fit(state, minibatches(X, state.plan, start_step=state.step)):
            pass
        checkpoint.save(tmp_path, state, {})
        return torch.cat([p.detach().flatten() for p in state.model.parameters()])

    run(11, False)
    assert torch.equal(run(22, True), run(22, False))
    assert EarlyStopping(patience=1).offer(1, -1e12)


def test_b27_order_differs_between_epochs_the_tail_is_kept_and_adam_counts_steps() -> None:
    first, second = (torch.cat(list(batch_indices(103, 10, 0, epoch))) for epoch in (0, 1))
    state = new_state(table(), plan(steps=13))
    for _ in fit(state, minibatches(X, state.plan)):
        pass

    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(103))
    assert {int(moments["step"]) for moments in state.optimizer.state.values()} == {13}


def test_b28_a_name_says_what_it_is() -> None:
    """elbo up, distortion and rate down, elbo = -distortion - rate."""
    state = new_state(table(), plan(steps=60), Statistics.of(table(), X))
    before = evaluate(state.model, [(X, KEYS)], samples=5, seed=0)
    for _ in fit(state, minibatches(X, state.plan)):
        pass
    after = evaluate(state.model, [(X, KEYS)], samples=5, seed=0)

    assert after.elbo.mean > before.elbo.mean
    assert after.elbo.mean == pytest.approx(-after.distortion.mean - after.rate.mean)
    assert after.rate.mean >= 0


def test_every_defect_has_its_test() -> None:
    numbers = [int(name[6:8]) for name in globals() if name.startswith("test_b")]

    assert numbers == list(range(1, 29))
