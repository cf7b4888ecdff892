"""Tests of what some processors cannot do."""

import pytest

from vae_engine.byte_products import multiplies_bytes
from vae_engine.products import HALVES

needs_bytes = pytest.mark.skipif(
    not multiplies_bytes(), reason="this CPU has no instructions for products of bytes (VNNI)"
)
needs_halves = pytest.mark.skipif(
    not HALVES, reason="oneDNN multiplies no bfloat16 here: from AVX-512 on it does"
)
