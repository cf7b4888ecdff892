"""Functions of one number that a compiler turns into vector instructions, and activations of them.

The C library's are called number by number.
"""

# ruff: noqa: ANN001, ANN201, FURB136  # Numba finds the types; `max` may lose a NaN

from typing import no_type_check

import numpy as np
from numba import njit

from vae_engine.native import COMPILED

NAMES = ("none", "tanh", "relu", "silu", "softplus")  # of activations, by number
NONE, TANH, RELU, SILU, SOFTPLUS = range(5)
ONE, TWO, HALF, ZERO = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0)
LOW, HIGH = np.float32(-87), np.float32(88)
LOG2_E = np.float32(1.44269504088896341)
LN_2, LESS = np.float32(0.693359375), np.float32(-2.12194440e-4)  # log 2, in two parts
IN_ORDER = COMPILED | {"fastmath": {"contract", "nsz"}}  # the two parts stay two


@njit(**IN_ORDER)
@no_type_check
def exponential(x):
    """e^x to 2e-7 of itself, for x in [-87, 88]; beyond, what it is at the end (Cephes' expf)."""
    if x < LOW:  # so that NaN passes
        x = LOW
    if x > HIGH:
        x = HIGH
    twos = np.floor(x * LOG2_E + HALF)
    x = x - twos * LN_2 - twos * LESS
    y = np.float32(1.9875691500e-4)
    y = y * x + np.float32(1.3981999507e-3)
    y = y * x + np.float32(8.3334519073e-3)
    y = y * x + np.float32(4.1665795894e-2)
    y = y * x + np.float32(1.6666665459e-1)
    y = y * x + np.float32(5.0000001201e-1)
    y = y * x * x + x + ONE
    bits = (np.int32(twos) + np.int32(127)) << np.int32(23)
    return y * np.int32(bits).view(np.float32)


@njit(**COMPILED)
@no_type_check
def log_of_one_and(e):
    """log(1 + e) to 3e-7 of itself, for e in [0, 1]: 2 artanh(e / (2 + e)), eight terms."""
    f = e / (TWO + e)
    g = f * f
    y = np.float32(1 / 15)
    y = y * g + np.float32(1 / 13)
    y = y * g + np.float32(1 / 11)
    y = y * g + np.float32(1 / 9)
    y = y * g + np.float32(1 / 7)
    y = y * g + np.float32(1 / 5)
    y = y * g + np.float32(1 / 3)
    return TWO * f * (ONE + g * y)


@njit(**COMPILED)
@no_type_check
def activate(kind, y, bend):
    """Overwrite y by f(y), and `bend` by f'(y)."""
    if kind == TANH:
        for j in range(len(y)):
            y[j] = ONE - TWO / (ONE + exponential(TWO * y[j]))
            bend[j] = ONE - y[j] * y[j]
    elif kind == RELU:
        for j in range(len(y)):
            bend[j] = ONE if y[j] > ZERO else ZERO
            y[j] = ZERO if y[j] < ZERO else y[j]
    elif kind == SILU:
        for j in range(len(y)):
            e = exponential(-y[j])
            s = ONE / (ONE + e)
            bend[j] = s * (ONE + y[j] * (e * s))
            y[j] = y[j] * s
    elif kind == SOFTPLUS:
        for j in range(len(y)):
            e = exponential(-abs(y[j]))
            over = ONE / (ONE + e)
            bend[j] = over if y[j] > ZERO else e * over
            y[j] = (y[j] if y[j] > ZERO else ZERO) + log_of_one_and(e)
