"""Affine maps of bytes, on a CPU that multiplies bytes several times as fast as float32 numbers.

A pixel is a byte, and a weight is three digits of a byte each, of a scale of its own for each
output: w = s (q1 + q2 / 254 + q3 / 254^2), within 2^-24 of the largest weight of that output.
Each product of bytes is summed in integers, so neither the order of the sum nor the number of
rows changes a bit, and the result is as near to the exact one as that in float32, in three
quarters of the time (oneDNN, with the instructions called VNNI); and bytes need not become
float32 numbers first.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

DIGITS = 3
LARGEST = 127  # a digit is -127..127
BASE = 2 * LARGEST
MOST_INPUTS = (2**31 - 1) // (255 * LARGEST)  # whose sum is an int32, whatever they are
LARGEST_RATIO = 32  # of an output's largest weight to its mean one, in absolute value
OUTPUTS_AT_A_TIME = 64  # in float64
VNNI = ("avx512_vnni", "avx_vnni")


@dataclass(frozen=True)
class ByteMap:
    """x -> (x / unit) W^T + b of bytes x, for a W and a b that stay as they are."""

    digits: "tuple[_Digit, ...]"  # the smallest first
    bias: Float[Tensor, " outputs"]

    @classmethod
    def of(
        cls,
        weight: Float[Tensor, "outputs inputs"],
        bias: Float[Tensor, " outputs"],
        unit: Float[Tensor, " inputs"],
    ) -> "ByteMap | None":
        """Return the map; None where it would be slower than float32, or less exact.

        The first is a CPU without the instructions, or no CPU. The second is another precision,
        more inputs than an int32 holds the sum of, weights that are not finite, or an output
        whose weights are tiny but for a few: the error is in proportion to the largest of them,
        where that of float32 is to each.
        """
        if (weight.device.type, weight.dtype) != ("cpu", torch.float32):
            return None
        if weight.shape[1] > MOST_INPUTS or not multiplies_bytes():
            return None
        found = [_digits_of(w.detach() / unit) for w in weight.split(OUTPUTS_AT_A_TIME)]
        if not all(even for _, _, even in found):
            return None
        digits = torch.cat([digits for digits, _, _ in found], 1)
        scales = torch.cat([scales for _, scales, _ in found], 1)
        smallest_first = reversed(list(map(_Digit.of, digits, scales)))
        return cls(tuple(smallest_first), bias.detach())

    def __call__(self, x: UInt8[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Return (x / unit) W^T + b."""
        x = x.contiguous()
        first, *others = self.digits
        result = first.applied(x, self.bias)
        for digit in others:
            digit.add(x, result)
        return result


def _digits_of(
    weight: Float[Tensor, "outputs inputs"],
) -> tuple[Int8[Tensor, "3 outputs inputs"], Float[Tensor, "3 outputs"], bool]:
    """Return the digits, what they are worth, and whether they are as exact as float32."""
    rest = weight.double()
    largest, mean = rest.abs().amax(1), rest.abs().mean(1)
    even = bool((largest.isfinite() & (largest <= LARGEST_RATIO * mean)).all())
    scale = torch.where(largest > 0, largest, 1.0) / LARGEST
    digits, scales = [], []
    for _ in range(DIGITS):
        digit = (rest / scale[:, None]).round_()
        rest = rest - digit * scale[:, None]
        digits.append(digit.to(torch.int8))
        scales.append(scale.float())
        scale = scale / BASE
    return torch.stack(digits), torch.stack(scales), even


@dataclass(frozen=True)
class _Digit:
    """One digit of every weight, as oneDNN keeps them, and what it is worth for each output."""

    packed: Tensor
    scale: Float[Tensor, " outputs"]
    zero: Tensor  # what oneDNN takes off each weight: nothing, for digits have a sign

    @classmethod
    def of(cls, digit: Int8[Tensor, "outputs inputs"], scale: Tensor) -> "_Digit":
        packed = torch.ops.onednn.qlinear_prepack(digit, None)
        return cls(packed, scale, torch.zeros(len(digit), dtype=torch.int64))

    def applied(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the products as new float32 numbers."""
        of_weight = self.packed, self.scale, self.zero
        as_they_are: tuple[Any, ...] = 1.0, 0, torch.float32, "none", [], ""
        ask = torch.ops.onednn.qlinear_pointwise.default
        result: Tensor = ask(x, 1.0, 0, *of_weight, bias, *as_they_are)
        return result

    def add(self, x: Tensor, so_far: Tensor) -> None:
        """Add the products to `so_far`, in place."""
        of_weight = self.packed, self.scale, self.zero
        as_they_are: tuple[Any, ...] = 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""
        ask = torch.ops.onednn.qlinear_pointwise.binary
        ask(x, 1.0, 0, *of_weight, so_far, None, *as_they_are)


@cache
def multiplies_bytes() -> bool:
    """Whether this CPU has the instructions, and oneDNN, asked for a large sum, has it exactly.

    Older instructions lose what is beyond 16 bits.
    """
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not (torch.backends.mkldnn.is_available() and any(has.get(name) for name in VNNI)):
        return False
    x = torch.full((1, 64), 255, dtype=torch.uint8)
    weight = torch.full((1, 64), LARGEST, dtype=torch.int8)
    return _Digit.of(weight, torch.ones(1)).applied(x, None).item() == 255 * LARGEST * 64
