"""Laws of Hamiltonian dynamics, and of the chains that it moves."""

import math

import pytest
import torch
from torch import Tensor

from vae_engine.hmc import Kick, Point, adapted, evaluate, kick, leapfrog, transition

ONE = torch.ones(1, dtype=torch.float64)


def banana(z: Tensor) -> tuple[Tensor]:
    """A density with curvature: z_0 ~ N(0, 1), z_1 | z_0 ~ N(z_0^2, 1/4)."""
    return (-0.5 * z[..., 0].square() - 2 * (z[..., 1] - z[..., 0].square()).square(),)


def draws(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def energy(point: Point, momentum: Tensor) -> Tensor:
    return -point.log_density(ONE) + 0.5 * momentum.square().sum(-1)


def test_a_trajectory_leads_back_when_the_momentum_turns() -> None:
    start, momentum = evaluate(banana, draws(4, 3, 2)), draws(4, 3, 2, seed=2)
    step = torch.tensor([[0.1, 0.05], [0.01, 0.1], [0.05, 0.05]]).double()

    end, last = leapfrog(banana, ONE, start, momentum, step, 20)
    back, first = leapfrog(banana, ONE, end, -last, step, 20)
    torch.testing.assert_close(back.z, start.z)
    torch.testing.assert_close(-first, momentum)


def test_a_trajectory_preserves_volume() -> None:
    """The Jacobian of (z, momentum) -> (z', momentum'), by central differences, has det 1."""
    step = torch.tensor([[0.2, 0.1]]).double()
    moved = draws(4) + 1e-5 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
    z, momentum = moved[:, None, :2], moved[:, None, 2:]

    end, last = leapfrog(banana, ONE, evaluate(banana, z), momentum, step, 10)
    after = torch.cat([end.z, last], -1)[:, 0]
    jacobian = (after[:4] - after[4:]) / 2e-5
    assert abs(torch.linalg.det(jacobian).item() - 1) < 1e-6


def test_the_error_of_the_energy_is_of_second_order() -> None:
    """A trajectory of length 1 in ever smaller steps: log error against log step, slope 2."""
    start, momentum = evaluate(banana, draws(1, 50, 2)), draws(1, 50, 2, seed=2)
    sizes = [2.0**-k for k in range(4, 9)]
    errors = []
    for size in sizes:
        step = torch.full((50, 1), size).double()
        end, last = leapfrog(banana, ONE, start, momentum, step, int(1 / size))
        errors.append((energy(end, last) - energy(start, momentum)).abs().mean())

    slope = (errors[0] / errors[-1]).log() / math.log(sizes[0] / sizes[-1])
    assert abs(slope.item() - 2) < 0.1


def test_chains_that_start_in_the_density_stay_in_it() -> None:
    """E z_0^2 = 1, E z_1 = 1, Var z_1 = 2 + 1/4 after 20 transitions of 16,000 exact draws.

    Standard errors sqrt(2), 1.5 and sqrt(E z^4 - 2.25^2) <= 10, over sqrt(16,000); z = 3.3.
    The step is large on purpose: without the accept step the moments are off by a multiple.
    """
    noise = draws(4, 4000, 2)
    point = evaluate(
        banana, torch.stack([noise[..., 0], noise[..., 0] ** 2 + noise[..., 1] / 2], -1)
    )
    step, keys = torch.full((4000, 1), 0.45).double(), torch.arange(4000)
    acceptance = torch.zeros(20)
    for k in range(20):
        point, taken = transition(banana, ONE, point, kick(7, keys, k, point.z), step, 3)
        acceptance[k] = taken.mean()

    assert 0.3 < acceptance.mean() < 0.8
    assert abs(point.z[..., 0].square().mean().item() - 1) < 3.3 * 2**0.5 / 16_000**0.5
    assert abs(point.z[..., 1].mean().item() - 1) < 3.3 * 1.5 / 16_000**0.5
    assert abs(point.z[..., 1].var().item() - 2.25) < 3.3 * 10 / 16_000**0.5


def test_a_rejected_chain_stays_where_it_was_with_all_that_is_known_there() -> None:
    point = evaluate(banana, draws(2, 3, 2))
    # a uniform number of 1 is above every probability
    never = Kick(draws(2, 3, 2, seed=2), torch.ones(2, 3).double(), torch.ones(3, 1).double())

    stayed = transition(banana, ONE, point, never, torch.ones(3, 1).double(), 5)
    assert all(torch.equal(a, b) for a, b in zip(stayed.point, point, strict=True))


def test_a_trajectory_that_ends_nowhere_is_rejected() -> None:
    def cliff(z: Tensor) -> tuple[Tensor]:
        return ((1 - z.square().sum(-1)).log(),)  # nan outside the unit disc

    point = evaluate(cliff, torch.zeros(1, 2, 2).double())
    far = Kick(
        torch.full((1, 2, 2), 9.0).double(),
        torch.zeros(1, 2).double(),
        torch.ones(2, 1).double(),
    )
    moved = transition(cliff, ONE, point, far, torch.ones(2, 1).double(), 1)

    assert moved.acceptance.tolist() == [[0, 0]]
    torch.testing.assert_close(moved.point.z, point.z)


def test_a_weighted_sum_of_terms_is_one_density() -> None:
    def halves(z: Tensor) -> tuple[Tensor, Tensor]:
        return (-0.5 * z[..., 0].square(), -(z[..., 1] - z[..., 0].square()).square())

    start, momentum = draws(2, 3, 2), draws(2, 3, 2, seed=2)
    step, weights = torch.full((3, 1), 0.1).double(), torch.tensor([1.0, 2.0]).double()

    one, p = leapfrog(banana, ONE, evaluate(banana, start), momentum, step, 5)
    two, q = leapfrog(halves, weights, evaluate(halves, start), momentum, step, 5)
    torch.testing.assert_close(one.z, two.z)
    torch.testing.assert_close(p, q)
    torch.testing.assert_close(one.log_density(ONE), two.log_density(weights))


def test_draws_belong_to_rows_and_not_to_their_place() -> None:
    keys, z = torch.tensor([5, 9, 2]), torch.zeros(4, 3, 2)
    first, later, turned = kick(1, keys, 3, z), kick(1, keys, 4, z), kick(1, keys.flip(0), 3, z)

    assert torch.equal(first.momentum.flip(1), turned.momentum)
    assert torch.equal(first.uniform.flip(1), turned.uniform)
    assert torch.equal(first.stretch.flip(0), turned.stretch)
    assert not any(torch.equal(a, b) for a, b in zip(first, later, strict=True))


def test_trajectories_are_stretched_by_a_half_to_one_and_a_half() -> None:
    stretch = kick(1, torch.arange(10_000), 0, torch.zeros(2, 10_000, 1)).stretch

    assert (stretch >= 0.5).all()
    assert (stretch < 1.5).all()
    assert stretch.mean().item() == pytest.approx(1, abs=3.3 * 12**-0.5 / 100)


def test_half_a_period_does_not_trap_a_chain() -> None:
    """N(0, 1) in steps of pi / 16: 16 of one length turn z into -z for ever.

    Two states of such chains correlate fully in their squares; of stretched ones, hardly:
    2,000 rows know a correlation of squares to 3.3 / sqrt(2000).
    """

    def normal(z: Tensor) -> tuple[Tensor]:
        return (-0.5 * z.square().sum(-1),)

    begin = point = evaluate(normal, draws(1, 2000, 1))
    step, keys = torch.full((2000, 1), math.pi / 16).double(), torch.arange(2000)
    for k in range(6):
        point, _ = transition(normal, ONE, point, kick(1, keys, k, point.z), step, 16)

    squares = torch.stack([begin.z[0, :, 0].square(), point.z[0, :, 0].square()])
    assert abs(squares.corrcoef()[0, 1].item()) < 3.3 / 2000**0.5


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_step_sizes_find_their_acceptance_row_by_row(target: float) -> None:
    """Rows with scales 0.1 and 1: the same acceptance, steps ten times apart."""
    scale = torch.tensor([0.1, 1.0]).double()

    def normal(z: Tensor) -> tuple[Tensor]:
        return (-0.5 * (z / scale[:, None]).square().sum(-1),)

    point, keys = evaluate(normal, draws(64, 2, 5) * scale[:, None]), torch.arange(2)
    size, sizes, acceptances = torch.ones(2).double(), [], []
    for k in range(300):
        # One leapfrog step: with more, a Gaussian's energy error is not monotone in the step.
        random = kick(1, keys, k, point.z)
        point, acceptance = transition(normal, ONE, point, random, size[:, None], 1)
        size = adapted(size, acceptance, target, 0.2)
        sizes.append(size.log())
        acceptances.append(acceptance.mean(0))

    reached = torch.stack(acceptances[100:]).mean(0)
    ratio = torch.stack(sizes[100:]).mean(0).diff().exp()
    assert reached.tolist() == pytest.approx([target] * 2, abs=0.02)
    assert ratio.item() == pytest.approx(10, rel=0.06)
