"""The bounds against a model whose log p(x) is known, and against planted defects.

Every law takes the module under test, so that it can be run on mutants of its source as well:
MUTANTS lists them, and each must break at least one law.
"""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.exact import LinearGaussian, draws
from tests.mutants import mutant
from vae_engine import objectives
from vae_engine.posteriors import DiagonalNormal

close = torch.testing.assert_close


class Learned(LinearGaussian):
    """The same model with a bias of p and an offset and a stretch of q that take gradients."""

    def __init__(self, off: float) -> None:
        super().__init__(features=5, latents=3)
        self.bias = self.bias.requires_grad_()
        self.q = torch.zeros(2, 3, dtype=torch.float64)
        self.q[0] = off
        self.q.requires_grad_()

    def posterior(self, x: Tensor) -> DiagonalNormal:
        with torch.no_grad():
            exact = super().posterior(x)
        stddev = exact.stddev * self.q[1].exp()
        return DiagonalNormal(exact.mean + self.q[0] * exact.stddev, stddev)

    def sample(self, rows: int, seed: int = 2) -> Tensor:
        return super().sample(rows, seed).detach()


def model(off: float = 0.0) -> LinearGaussian:
    return LinearGaussian(features=5, latents=3, scale=0.7, off=off)


def every_weight_is_the_marginal_when_the_posterior_is_exact(o: ModuleType) -> None:
    """q = p(z|x) makes log w constant in z: no tolerance for Monte Carlo is needed."""
    exact = model()
    x = exact.sample(8)
    log_w = o.log_weights(exact, x, draws(4, 8, 3))
    close(log_w, exact.log_marginal(x).expand(4, 8))


def sampled_bounds_are_the_marginal_for_every_draw_when_the_posterior_is_exact(
    o: ModuleType,
) -> None:
    exact = model()
    x = exact.sample(8)
    for bound in (o.elbo_sampled, o.iwae):
        close(bound(exact, x, draws(3, 8, 3)), exact.log_marginal(x))


def the_gap_of_the_elbo_is_the_kl_to_the_true_posterior(o: ModuleType) -> None:
    """Eq. 1: log p(x) = KL(q || p(z|x)) + ELBO.

    Antithetic noise cancels the linear term. The quadratic one of B, whose standard deviation is
    below 1 nat, is averaged over 20,000 pairs: standard error 0.007; times z = 4 for 16
    comparisons, 0.03. For A it cancels too.
    """
    loose = model(off=0.3)
    x = loose.sample(8)
    noise = draws(20_000, 8, 3)
    noise = torch.cat([noise, -noise])
    for bound in (o.elbo, o.elbo_sampled):
        gap = loose.log_marginal(x) - bound(loose, x, noise)
        close(gap, torch.full((8,), loose.kl_to_truth()).double(), rtol=0, atol=0.03)


def estimators_a_and_b_agree_in_the_mean(o: ModuleType) -> None:
    """Their difference, KL sampled less KL exact, has standard deviation below 2.2 nats a draw:
    over 40,000 draws and 8 rows a standard error of 0.004; 3.3 of them is 0.013."""
    loose = model(off=0.5)
    x, noise = loose.sample(8), draws(40_000, 8, 3)
    difference = o.elbo(loose, x, noise) - o.elbo_sampled(loose, x, noise)
    assert abs(difference.mean().item()) < 0.013


def more_samples_tighten_the_importance_weighted_bound(o: ModuleType) -> None:
    """ELBO <= IWAE_5 <= IWAE_50 <= log p(x), on means over 4,000 draws of each of 8 rows."""
    loose = model(off=1.0)
    x = loose.sample(8).repeat_interleave(4000, 0)
    one, five, fifty = (o.iwae(loose, x, draws(k, len(x), 3)).mean() for k in (1, 5, 50))
    assert one + 0.3 < five < fifty - 0.1 < loose.log_marginal(x).mean() - 0.1


def importance_weights_average_to_the_marginal(o: ModuleType) -> None:
    """E[w] = p(x) without bias: 200,000 draws of weights whose log has variance off^2 * 3 = 0.27,
    so a relative standard error of sqrt(e^0.27 - 1) / 450 = 0.0013; 3.3 of them is 0.004."""
    loose = model(off=0.3)
    x = loose.sample(2)
    close(o.iwae(loose, x, draws(200_000, 2, 3)), loose.log_marginal(x), rtol=0, atol=0.0043)


def one_sample_makes_the_importance_weighted_bound_the_elbo(o: ModuleType) -> None:
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(1, 8, 3)
    close(o.iwae(loose, x, noise), o.elbo_sampled(loose, x, noise))


def bounds_are_per_row_and_rows_do_not_mix(o: ModuleType) -> None:
    """B5, B7: the number of a row is the same alone and in company."""
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(5, 8, 3)
    for bound in (o.elbo, o.elbo_sampled, o.iwae):
        together = bound(loose, x, noise)
        alone = [bound(loose, x[k : k + 1], noise[:, k : k + 1]) for k in range(8)]
        assert together.shape == (8,)
        close(together, torch.cat(alone))


def every_bound_of_one_model_is_one_number_when_the_posterior_is_exact(o: ModuleType) -> None:
    """ELBO = IWAE = log p(x) for every draw, whichever way the samples are grouped."""
    exact = model()
    x, noise = exact.sample(8), draws(6, 8, 3)
    for bound in (
        o.elbo_sticking(exact, x, noise),
        o.iwae_doubly_reparameterized(exact, x, noise),
        o.miwae(exact, x, noise, groups=2),
        o.piwae(exact, x, noise, groups=3),
    ):
        close(bound, exact.log_marginal(x))


def bounds_in_groups_are_bounds_of_groups(o: ModuleType) -> None:
    """B9: MIWAE(M, 1) is estimator A, MIWAE(1, K) is IWAE, MIWAE(2, 3) is the mean of two."""
    loose = model(off=0.5)
    x, noise = loose.sample(8), draws(6, 8, 3)
    close(o.miwae(loose, x, noise, groups=6), o.elbo_sampled(loose, x, noise))
    close(o.miwae(loose, x, noise, groups=1), o.iwae(loose, x, noise))
    halves = o.iwae(loose, x, noise[:3]) + o.iwae(loose, x, noise[3:])
    close(o.miwae(loose, x, noise, groups=2), 0.5 * halves)


def a_bound_with_its_own_gradient_keeps_its_value(o: ModuleType) -> None:
    """B8: what is reported is log mean w, whatever the gradient is of."""
    loose = model(off=0.5)
    x, noise = loose.sample(8), draws(6, 8, 3)
    close(o.elbo_sticking(loose, x, noise), o.elbo_sampled(loose, x, noise))
    close(o.iwae_doubly_reparameterized(loose, x, noise), o.iwae(loose, x, noise))
    close(o.piwae(loose, x, noise, groups=2), o.iwae(loose, x, noise))


def the_weight_of_the_kl_is_beta_and_its_first_nats_are_free(o: ModuleType) -> None:
    loose = model(off=0.5)
    x, noise = loose.sample(8), draws(2, 8, 3)
    by_latent = loose.posterior(x).kl_per_latent()
    plain = o.elbo(loose, x, noise)
    close(o.elbo_weighted(loose, x, noise, beta=1.0), plain)
    close(plain - o.elbo_weighted(loose, x, noise, beta=3.0), 2 * by_latent.sum(-1))
    levels = by_latent.mean(0).sort().values
    free = (0.5 * (levels[0] + levels[1])).item()
    paid = torch.stack([levels[0] * 0 + free, levels[1], levels[2]]).sum()
    bound = o.elbo_weighted(loose, x, noise, beta=1.0, free_nats=free)
    close((plain + by_latent.sum(-1) - bound).mean(), paid)
    there = o.elbo_weighted(loose, x, noise, beta=1.0, free_nats=torch.tensor(free))
    close(there, bound)
    close(o.elbo_weighted(loose, x, noise, beta=1.0, free_nats=torch.tensor(0.0)), plain)
    known = torch.where(by_latent[0] > free, 0.0, 2 * free)  # the others of the batch differ
    part = o.elbo_weighted(loose, x[:1], noise[:, :1], beta=1.0, free_nats=free, mean_kl=known)
    costs = torch.where(known > free, by_latent[0], free).sum()
    close(part, plain[:1] + by_latent[0].sum() - costs)


def a_minibatch_speaks_for_all_rows(o: ModuleType) -> None:
    """Eq. 8: the mean over all minibatches of a data set is its sum, and N(0, I) is the prior."""
    bounds = draws(60)
    estimates = torch.stack([o.full_data_bound(part, 60) for part in bounds.split(10)])
    close(estimates.mean(), bounds.sum())
    weights = [draws(3, 4), draws(5, seed=1)]
    normal = torch.distributions.Normal(0.0, 1.0)
    close(o.log_weight_prior(weights), sum(normal.log_prob(w).sum() for w in weights))


def complete_data_is_the_joint_density(o: ModuleType) -> None:
    exact = model()
    x, z = exact.sample(8), draws(4, 8, 3)
    joint = exact.log_marginal(x) + exact.posterior(x).log_prob(z)
    close(o.complete_data(exact, x, z), joint.mean(0))


def gradients(bound: Tensor, parts: Learned) -> tuple[Tensor, Tensor]:
    """Gradients for p (one number) and q (two) of the mean of a bound over rows."""
    p, q = torch.autograd.grad(bound.mean(), [parts.bias, parts.q], allow_unused=True)
    nothing = torch.zeros_like(parts.q)
    return (torch.zeros_like(parts.bias) if p is None else p), (nothing if q is None else q)


def the_sticking_gradient_of_q_is_zero_where_q_is_exact(o: ModuleType) -> None:
    """For every draw, while estimator A's only averages to zero."""
    learned = Learned(off=0.0)
    x, noise = learned.sample(8), draws(2, 8, 3)
    _, sticking = gradients(o.elbo_sticking(learned, x, noise), learned)
    _, plain = gradients(o.elbo_sampled(learned, x, noise), learned)
    close(sticking, torch.zeros(2, 3).double(), rtol=0, atol=1e-12)
    assert plain.abs().max() > 0.01


def gradients_with_less_noise_have_the_same_mean(o: ModuleType) -> None:
    """One row, 9,000 repetitions of 4 samples. Standard errors are measured over 30 groups of
    them; z = 4 for eleven numbers twice."""
    learned = Learned(off=0.4)
    x = learned.sample(1).expand(300, -1)
    pairs = [
        (o.elbo_sampled, o.elbo_sticking),
        (o.iwae, o.iwae_doubly_reparameterized),
    ]
    for plain, better in pairs:
        differences = []
        for group in range(30):
            noise = draws(4, 300, 3, seed=group)
            one = torch.cat([g.flatten() for g in gradients(plain(learned, x, noise), learned)])
            two = torch.cat(
                [g.flatten() for g in gradients(better(learned, x, noise), learned)]
            )
            differences.append(one - two)
        found = torch.stack(differences)
        stderr = found.std(0) / 30**0.5
        assert (found.mean(0).abs() <= 4 * stderr + 1e-9).all()


def the_gradient_of_the_importance_weighted_bound_is_its_own(o: ModuleType) -> None:
    """B10: sum of normalized weights times the gradients of log weights, by hand."""
    learned = Learned(off=0.4)
    x, noise = learned.sample(2), draws(4, 2, 3)
    log_w = o.log_weights(learned, x, noise)
    by_hand = (log_w.detach().softmax(0) * log_w).sum(0)
    for found, expected in zip(
        gradients(o.iwae(learned, x, noise), learned), gradients(by_hand, learned), strict=True
    ):
        close(found, expected)


def partial_bounds_train_p_and_q_by_their_own(o: ModuleType) -> None:
    learned = Learned(off=0.4)
    x, noise = learned.sample(3), draws(6, 3, 3)
    p, q = gradients(o.piwae(learned, x, noise, groups=2), learned)
    close(p, gradients(o.iwae(learned, x, noise), learned)[0])
    close(q, gradients(o.miwae(learned, x, noise, groups=2), learned)[1])


def wake_moves_p_and_sleep_moves_q(o: ModuleType) -> None:
    learned = Learned(off=0.4)
    x, noise = learned.sample(6), draws(2, 6, 3)
    dream = (learned.sample(6, seed=9), draws(6, 3, seed=8))
    p, q = gradients(o.wake_sleep(learned, x, noise, dream), learned)
    z = learned.posterior(x).reparameterize(noise).detach()
    close(p, gradients(o.complete_data(learned, x, z), learned)[0])
    close(q, gradients(learned.posterior(dream[0]).log_prob(dream[1][None])[0], learned)[1])
    moving = (dream[0], draws(6, 3, seed=8).requires_grad_())
    o.wake_sleep(learned, x, noise, moving).sum().backward()
    assert moving[1].grad is None


def under_another_prior_the_kl_is_sampled(o: ModuleType) -> None:
    """A closed form is that of N(0, I); under another prior it would be the wrong number."""
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(5, 8, 3)
    loose.standard_prior = False
    close(o.elbo(loose, x, noise), o.elbo_sampled(loose, x, noise))


LAWS: list[Callable[[ModuleType], None]] = [
    # the slow ones last: most mutants fall before
    every_weight_is_the_marginal_when_the_posterior_is_exact,
    sampled_bounds_are_the_marginal_for_every_draw_when_the_posterior_is_exact,
    one_sample_makes_the_importance_weighted_bound_the_elbo,
    bounds_are_per_row_and_rows_do_not_mix,
    every_bound_of_one_model_is_one_number_when_the_posterior_is_exact,
    bounds_in_groups_are_bounds_of_groups,
    a_bound_with_its_own_gradient_keeps_its_value,
    the_weight_of_the_kl_is_beta_and_its_first_nats_are_free,
    a_minibatch_speaks_for_all_rows,
    complete_data_is_the_joint_density,
    the_sticking_gradient_of_q_is_zero_where_q_is_exact,
    the_gradient_of_the_importance_weighted_bound_is_its_own,
    partial_bounds_train_p_and_q_by_their_own,
    wake_moves_p_and_sleep_moves_q,
    under_another_prior_the_kl_is_sampled,
    the_gap_of_the_elbo_is_the_kl_to_the_true_posterior,
    estimators_a_and_b_agree_in_the_mean,
    importance_weights_average_to_the_marginal,
    gradients_with_less_noise_have_the_same_mean,
    more_samples_tighten_the_importance_weighted_bound,
]

MUTANTS = {
    "elbo: KL added, not subtracted": (
        "return model.log_likelihood(x, z).mean(0) - kl\n",
        "return model.log_likelihood(x, z).mean(0) + kl\n",
    ),
    "elbo: likelihood summed over samples": (
        "return model.log_likelihood(x, z).mean(0) - kl\n",
        "return model.log_likelihood(x, z).sum(0) - kl\n",
    ),
    "elbo: mean over rows too (B5)": (
        "return model.log_likelihood(x, z).mean(0) - kl\n",
        "return model.log_likelihood(x, z).mean() - kl\n",
    ),
    "elbo_sampled: sum over samples": (
        "log_weights(model, x, noise).mean(0)",
        "log_weights(model, x, noise).sum(0)",
    ),
    "iwae: divisor dropped": ("- math.log(log_w.shape[axis])", ""),
    "iwae: wrong divisor (B13, B14)": ("log_w.shape[axis])", "log_w.shape[axis] + 1)"),
    "iwae: sum of weighted log weights (B8)": (
        "log_w.logsumexp(axis) - math.log(log_w.shape[axis])",
        "(log_w.softmax(axis) * log_w).sum(axis)",
    ),
    "weights: q not divided out": (
        "+ model.log_prior(z) - log_q\n\n\ndef log_mean",
        "+ model.log_prior(z)\n\n\ndef log_mean",
    ),
    "weights: prior dropped": (
        "model.log_likelihood(x, z) + model.log_prior(z) - log_q\n\n\ndef log_mean",
        "model.log_likelihood(x, z) - log_q\n\n\ndef log_mean",
    ),
    "weights: sign reversed (B10)": (
        "return model.log_likelihood(x, z) + model.log_prior(z) - log_q\n\n\ndef log_mean",
        "return log_q - model.log_likelihood(x, z) - model.log_prior(z)\n\n\ndef log_mean",
    ),
    "kl: halved": (
        "return q.reparameterize(noise), exact",
        "return q.reparameterize(noise), 0.5 * exact",
    ),
    "kl: sampled with the wrong sign": (
        "return z, (log_q - model.log_prior(z)).mean(0)",
        "return z, (model.log_prior(z) - log_q).mean(0)",
    ),
    "weighted: beta on the likelihood": (
        "model.log_likelihood(x, z).mean(0) - beta * kl",
        "beta * model.log_likelihood(x, z).mean(0) - kl",
    ),
    "weighted: beta forgotten (B4)": ("- beta * kl", "- kl"),
    "free nats: of the sum over latents": (
        "by_latent.mean(0) if mean_kl is None",
        "by_latent.sum(-1, keepdim=True) if mean_kl is None",
    ),
    "free nats: of the part for the batch": (
        "by_latent.mean(0) if mean_kl is None else mean_kl",
        "by_latent.mean(0)",
    ),
    "free nats: minimum for maximum": (
        "torch.where(costs, by_latent, free_nats)",
        "torch.where(costs, free_nats, by_latent)",
    ),
    "miwae: M and K swapped (B9)": (
        "unflatten(0, (groups, -1)), 1).mean(0)",
        "unflatten(0, (-1, groups)), 1).mean(0)",
    ),
    "full data: sum for mean (B5)": ("total_rows * bounds.mean()", "total_rows * bounds.sum()"),
    "full data: scaling dropped": ("total_rows * bounds.mean()", "bounds.mean()"),
    "weight prior: sign": (
        "densities.standard_normal(p).sum() for p",
        "-densities.standard_normal(p).sum() for p",
    ),
    "sticking: nothing held fixed": ("q.detached().log_prob(z)", "q.log_prob(z)"),
    "doubly reparameterized: weights once": (
        "lambda gradient: weights[..., None] * gradient",
        "lambda gradient: gradient",
    ),
    "doubly reparameterized: value of the surrogate (B8)": (
        "_with_gradient_of(log_mean(log_w), (weights * log_w).sum(0))",
        "(weights * log_w).sum(0)",
    ),
    "piwae: q trained as p": (
        "for_q = (log_w.unflatten(0, (groups, -1)).softmax(1) / groups).flatten(0, 1)",
        "for_q = for_p",
    ),
    "piwae: p trained as q": (
        "for_p = log_w.softmax(0)",
        "for_p = (log_w.unflatten(0, (groups, -1)).softmax(1) / groups).flatten(0, 1)",
    ),
    "wake-sleep: the wake phase moves q": (
        "reparameterize(noise).detach()\n",
        "reparameterize(noise)\n",
    ),
    "wake-sleep: the dream is not fixed": (
        "(part.detach() for part in dream)",
        "(part for part in dream)",
    ),
    "wake-sleep: dreams of KL(q || p)": (
        "return wake + model.posterior(dreamt_x).log_prob(",
        "return wake - model.posterior(dreamt_x).log_prob(",
    ),
    "complete data: prior dropped": (
        "return (model.log_likelihood(x, z) + model.log_prior(z)).mean(0)",
        "return model.log_likelihood(x, z).mean(0)",
    ),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[ModuleType], None]) -> None:
    law(objectives)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(objectives, *MUTANTS[name])

    assert any(broken(law, changed) for law in LAWS)


def broken(law: Callable[[ModuleType], None], module: ModuleType) -> bool:
    try:
        law(module)
    except (AssertionError, RuntimeError):  # a mutant may give another shape
        return True
    return False


def test_noise_of_the_wrong_shape_is_refused() -> None:
    """Noise (4, 1, 3) for 8 rows would broadcast silently and share its draws."""
    exact = model()

    with pytest.raises(Exception, match="noise"):
        objectives.elbo(exact, exact.sample(8), draws(4, 1, 3))


def test_the_bound_is_what_a_hand_computes_on_two_by_three() -> None:
    """B1, B2, B3, B4: one row of three features and two latents, every constant by hand."""
    exact = LinearGaussian(features=3, latents=2, off=0.4)
    x, noise = exact.sample(1), draws(1, 1, 2)
    q = exact.posterior(x)
    z = (q.mean + q.stddev * noise[0])[0]
    residual = x[0] - exact.weight @ z - exact.bias
    log_likelihood = sum(
        -0.5 * (r / 0.7) ** 2 - math.log(0.7) - 0.5 * math.log(2 * math.pi)
        for r in residual.tolist()
    )
    divergence = sum(
        0.5 * (m**2 + s**2 - 1 - math.log(s**2))
        for m, s in zip(q.mean[0].tolist(), q.stddev[0].tolist(), strict=True)
    )

    assert objectives.elbo(exact, x, noise).item() == pytest.approx(log_likelihood - divergence)
