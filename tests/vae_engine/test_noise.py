"""Noise is a function of what it is for."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_engine.noise import (
    derived_seed,
    epoch_generator,
    keyed_noise,
    keyed_uniform,
    mix,
    step_generator,
)

KEYS = torch.tensor([3, -5, 2**62, -(2**63), 0])


@given(st.integers(0, 2**16), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_chunks_of_draws_are_parts_of_one_sequence(seed: int, sizes: list[int]) -> None:
    whole = keyed_noise(seed, KEYS, 7, 7 + sum(sizes), 3)
    starts = [7 + sum(sizes[:k]) for k in range(len(sizes))]
    parts = [keyed_noise(seed, KEYS, a, a + n, 3) for a, n in zip(starts, sizes, strict=True)]

    assert torch.equal(torch.cat(parts), whole)


@given(st.permutations(range(5)))
def test_a_row_keeps_its_noise_wherever_it_stands(order: list[int]) -> None:
    index = torch.tensor(order)

    assert torch.equal(
        keyed_noise(1, KEYS[index], 0, 9, 4), keyed_noise(1, KEYS, 0, 9, 4)[:, index]
    )
    assert torch.equal(keyed_uniform(1, KEYS[index], 6), keyed_uniform(1, KEYS, 6)[index])


def test_seed_and_key_and_draw_each_change_the_noise() -> None:
    base = keyed_noise(1, KEYS, 0, 2, 2)

    assert not torch.equal(base, keyed_noise(2, KEYS, 0, 2, 2))
    assert not torch.equal(base[0], base[1])
    assert len({tuple(row) for row in base[0].tolist()}) == len(KEYS)


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    """See Note [Statistical tests]. 10^6 draws: the standard errors of mean, variance and fourth
    moment are 0.001, 0.0014 and 0.0098; of a correlation over 2.5 * 10^5 pairs 0.002; z = 3.3."""
    noise = keyed_noise(7, torch.arange(500), 0, 500, 4).double()

    assert abs(noise.mean()) < 0.0033
    assert abs(noise.square().mean() - 1) < 0.0047
    assert abs(noise.pow(4).mean() - 3) < 0.033
    for left, right in ((0, 1), (0, 2), (1, 3)):  # the two of a pair, and across pairs
        assert abs((noise[..., left] * noise[..., right]).mean()) < 0.0067
    assert abs((noise[1:, :, 0] * noise[:-1, :, 0]).mean()) < 0.0067
    assert abs((noise[:, 1:, 0] * noise[:, :-1, 0]).mean()) < 0.0067


def test_uniform_numbers_are_uniform() -> None:
    """10^6 numbers in 16 bins: chi-square with 15 degrees of freedom is below 37.7 but 1 in 1000."""
    numbers = keyed_uniform(3, torch.arange(1000), 1000)
    counts = torch.histc(numbers, 16, 0, 1).double()

    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert ((counts - 62_500).square() / 62_500).sum() < 37.7


def test_a_wider_row_begins_with_the_same_numbers() -> None:
    assert torch.equal(keyed_uniform(3, KEYS, 9)[:, :5], keyed_uniform(3, KEYS, 5))


def test_mixing_is_that_of_splitmix64() -> None:
    """The first outputs of SplitMix64 from 0, as published with its reference code."""
    golden = 0x9E3779B97F4A7C15

    assert [mix(golden), mix(2 * golden)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_tensors_are_mixed_as_integers_are() -> None:
    origin = mix(int(KEYS[1]) + derived_seed(1, 4))
    bits = mix(origin + 0x9E3779B97F4A7C15)
    noise = keyed_noise(4, KEYS[1:2], 0, 1, 2)[0, 0]
    radius = (-2 * torch.tensor(((bits % 2**31) + 1) / 2**31).log()).sqrt()

    torch.testing.assert_close(noise.norm(), radius)


def test_generators_depend_on_seed_and_place() -> None:
    first = torch.rand(4, generator=step_generator(1, 5))

    assert torch.equal(first, torch.rand(4, generator=step_generator(1, 5)))
    assert not torch.equal(first, torch.rand(4, generator=step_generator(1, 6)))
    assert not torch.equal(first, torch.rand(4, generator=step_generator(2, 5)))
    assert not torch.equal(first, torch.rand(4, generator=epoch_generator(1, 5)))


@given(st.lists(st.integers(0, 50), max_size=3), st.lists(st.integers(0, 50), max_size=3))
def test_unequal_parts_give_unequal_seeds(left: list[int], right: list[int]) -> None:
    assert (derived_seed(*left) == derived_seed(*right)) == (left == right)
