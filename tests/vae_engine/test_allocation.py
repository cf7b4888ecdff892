"""Tensors that come and go use the same memory again."""

import os
import subprocess
import sys

FAULTS = """
import ctypes, resource, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page is one fault of 512
ctypes.CDLL(None).mallopt(-1, 1 << 17)  # give back what is free: left alone, it may or may not
from vae_engine.config import Column, ModelConfig
from vae_engine.model import build_model
if {engine}:
    columns = (Column(name="v", likelihood="gaussian"),)
    build_model(ModelConfig(columns=columns, latents=1, hidden=(2,)), seed=0)
def step():
    x = torch.ones(1 << 21)  # 8 MB, or 2,048 pages
    return [x + k for k in range(4)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, engine: bool, **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS.format(engine=engine)]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=ours | environment
    )
    return int(done.stdout)


def test_a_model_keeps_freed_memory() -> None:
    """Some 6,000 pages are touched for the first time; each step has 10,000."""
    assert page_faults(engine=True) < page_faults(engine=False) / 2


def test_an_allocator_that_was_told_otherwise_is_left_alone() -> None:
    assert page_faults(engine=True, MALLOC_TRIM_THRESHOLD_="131072") > 100_000
