"""Randomness as a function of what it is for, never of what was drawn before.

Training noise comes from a generator seeded by (seed, step). Evaluation noise is a pure function
of (seed, row key, draw index): the order of rows, the size of batches and of chunks, and the
device change nothing. Each row key starts a SplitMix64 sequence (Steele, Lea & Flood 2014, a
counter under a mixing function) that is read at the place of the draw; normals come from it
by the Box-Muller map.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64
FIRST = 0xBF58476D1CE4E5B9  # and its two multipliers
SECOND = 0x94D049BB133111EB
NORMAL, UNIFORM, STEP, EPOCH, WEIGHTS = range(1, 6)  # one stream for each use of a seed


def mix(number: int) -> int:
    """SplitMix64's finalizer on Python integers: 64 bits in, 64 well mixed bits out."""
    number &= 2**64 - 1
    number = (number ^ (number >> 30)) * FIRST % 2**64
    number = (number ^ (number >> 27)) * SECOND % 2**64
    return number ^ (number >> 31)


def derived_seed(*parts: int) -> int:
    """Return one 63-bit seed for a sequence of numbers; unequal sequences get unequal seeds."""
    seed = 0
    for part in parts:
        seed = mix(seed * GOLDEN + part + 1)
    return seed >> 1


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one training step: the same for a run that was resumed there."""
    return torch.Generator(device).manual_seed(derived_seed(STEP, seed, step))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator that shuffles one epoch; on the CPU whatever the device."""
    return torch.Generator().manual_seed(derived_seed(EPOCH, seed, epoch))


def weights_generator(seed: int) -> torch.Generator:
    """Return the generator of initial weights; on the CPU whatever the device."""
    return torch.Generator().manual_seed(derived_seed(WEIGHTS, seed))


def coarse_uniform(
    rows: int, cells: int, generator: torch.Generator
) -> Float[Tensor, "rows cells"]:
    """Draw uniform numbers of 16 bits, (k + 1/2) / 65536, in a third of the time of full ones.

    For the binarization of a training step: a probability is off by 8e-6 at most, and not at
    all at 0 and 1.
    """
    words = torch.empty(-(-rows * cells // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # every bit is drawn
    halves = words.view(torch.int16)[: rows * cells].float()
    return halves.add_(2**15 + 0.5).mul_(2.0**-16).view(rows, cells)


def keyed_noise(
    seed: int, row_keys: Int64[Tensor, " rows"], start: int, stop: int, latents: int
) -> Float[Tensor, "samples rows latents"]:
    """Draw standard normals number `start` to `stop` of each row, float32.

    Concatenating the draws of [a, b) and [b, c) gives those of [a, c), whatever else is in
    the batch. |noise| stays below 6.6 (31 bits).
    """
    pairs = -(-latents // 2)  # 64 random bits make two normals
    first, second = _bits(NORMAL, seed, row_keys, start * pairs, stop * pairs)
    radius = first.bitwise_and(2**31 - 1).float().add_(1).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    angle = second.float().mul_(math.pi * 2.0**-31)
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    by_row = both.view(len(row_keys), stop - start, 2 * pairs)[..., :latents]
    return by_row.transpose(0, 1).contiguous()


def keyed_uniform(
    seed: int, row_keys: Int64[Tensor, " rows"], cells: int
) -> Float[Tensor, "rows cells"]:
    """Draw one uniform number in [0, 1) for each cell of each row, float32.

    A number depends on its row and its cell alone: a wider row begins with the same numbers.
    """
    first, second = _bits(UNIFORM, seed, row_keys, 0, -(-cells // 2))
    both = torch.stack([first, second], -1).view(len(row_keys), -1)[:, :cells]
    return both.bitwise_and(2**24 - 1).float().mul_(2.0**-24)


def _bits(
    stream: int, seed: int, row_keys: Tensor, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Read places `start` to `stop` of each row's sequence: (rows, places) as two int32 halves."""
    origin = _mixed(row_keys + _signed(derived_seed(stream, seed)))
    places = torch.arange(start + 1, stop + 1, device=row_keys.device) * _signed(GOLDEN)
    halves = _mixed(origin[:, None] + places).view(torch.int32).unflatten(-1, (-1, 2))
    return halves[..., 0], halves[..., 1]


def _mixed(x: Tensor) -> Tensor:
    """`mix` on a fresh int64 tensor, in place; products wrap as in unsigned arithmetic."""
    shifted = torch.empty_like(x)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        torch.bitwise_right_shift(x, shift, out=shifted)
        x ^= shifted.bitwise_and_(2 ** (64 - shift) - 1)  # int64 shifts drag the sign along
        if factor != 1:
            x *= _signed(factor)
    return x


def _signed(number: int) -> int:
    """Return the int64 with the same 64 bits."""
    return number - 2**64 if number >= 2**63 else number
