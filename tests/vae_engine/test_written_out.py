"""Which gradient is taken, and that a missing or an unwritable Numba costs speed alone."""

import subprocess
import sys
from typing import Any

import pytest

from tests.vae_engine.rows import pictures, plan, table
from vae_engine import written_out
from vae_engine.compiled import CompiledGradient
from vae_engine.config import ModelConfig
from vae_engine.explicit import ExplicitGradient
from vae_engine.training import new_state

ALONE = """
import sys
{first}
from tests.vae_engine.rows import pictures, plan, sampled
from vae_engine import written_out
from vae_engine.training import Batch, new_state, train_step

written_out.LEAST_TERMS = 0
state = new_state(pictures(), plan())
train_step(state, Batch(sampled(pictures(), 16)))
print(type(state.explicit).__name__)
"""


@pytest.mark.parametrize(
    ("config", "settings", "least"),
    [
        (pictures(), {}, 1_000),
        (pictures(activation="gelu"), {}, 0),
        (pictures(), {"optimizer": "adagrad"}, 0),
        (pictures(), {"precision": "bfloat16"}, 0),
        (table(), {}, 0),
    ],
)
def test_others_go_through_pytorch(
    config: ModelConfig, settings: dict[str, Any], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of few products, too: 16 rows times 12 × 16 weights are more than 1,000 terms."""
    monkeypatch.setattr(written_out, "LEAST_TERMS", 10 * least)

    assert isinstance(new_state(config, plan(**settings)).explicit, ExplicitGradient)
    monkeypatch.setattr(written_out, "LEAST_TERMS", least)
    assert isinstance(new_state(pictures(), plan()).explicit, CompiledGradient)
    assert isinstance(new_state(pictures(), plan(), workers=2).explicit, CompiledGradient)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ('sys.modules["numba"] = None', ""),
        ('sys.modules["scipy.linalg.cython_blas"] = None', ""),
        (
            "from numba.core import caching; caching.CacheImpl._locator_classes = []",
            "NUMBA_CACHE_DIR",
        ),
    ],
)
def test_without_numba_or_scipy_or_a_folder_gradients_go_through_pytorch(
    first: str, told: str
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", ALONE.format(first=first)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == "ExplicitGradient"
    assert told in found.stderr
    assert bool(told) == bool(found.stderr)
