"""Training by several processes: the curve of one process, to rounding, and equal weights."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.vae_engine.rows import plan, sampled, table
from vae_engine import checkpoint
from vae_engine.config import ConfigError
from vae_engine.distributed import Ranks
from vae_engine.statistics import Statistics
from vae_engine.training import TrainState, fit, minibatches, new_state

STEPS, HALF = 40, 20
ROWS, BATCH = 49, 16  # the last batch of an epoch has one row, and one rank none


def begun(ranks: Ranks, steps: int = STEPS) -> TrainState:
    free = {"free_nats": 0.15, "free_steps": 10}  # of 0.08 to 0.8, which ranks' rows differ in
    return new_state(table(), plan(steps=steps, batch_rows=BATCH, **free), ranks=ranks)


def curve(state: TrainState) -> list[tuple[float, float]]:
    batches = minibatches(sampled(table(), ROWS), state.plan, start_step=state.step)
    return [(r.objective_nats, r.grad_norm) for r in fit(state, batches, report_every=1)]


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def share_rank(rank: int, world: int, folder: Path) -> None:
    """Measure components of rows that are this rank's own; keep what it then sees by."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world
    )
    config = table(principal_components=2)
    known = Statistics.of(config, sampled(config, ROWS, seed=rank))
    state = new_state(config, plan(), known, ranks=Ranks(rank, world))
    torch.save(state.model.measured(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def train_rank(rank: int, world: int, folder: Path) -> None:
    """Train to the half, save, and go on to the end; keep what came out."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world
    )
    state = begun(Ranks(rank, world), HALF)
    first = curve(state)
    if rank == 0:
        checkpoint.save(folder / "half", state, {})
    state.plan = begun(Ranks()).plan
    torch.save(
        {"curve": first + curve(state), "weights": weights(state)}, folder / f"{rank}.pt"
    )
    dist.destroy_process_group()


def answers(work: Callable[[int, int, Path], None], world: int, folder: Path) -> list[Any]:
    """What each of so many processes kept."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=work, args=(rank, world, folder)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]  # noqa: TID251


def test_two_processes_train_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in another order: the last bits differ, and Adam carries them from step to step."""
    world = 2
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    alone = begun(Ranks())
    expected = curve(alone)

    found = answers(train_rank, world, tmp_path)
    torch.testing.assert_close(found[0]["curve"], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    assert found[0]["curve"] == found[1]["curve"]

    resumed = begun(Ranks())
    checkpoint.load_latest(tmp_path / "half", resumed)
    assert resumed.step == HALF
    rest = curve(resumed)
    torch.testing.assert_close(rest, found[0]["curve"][HALF:], rtol=1e-4, atol=1e-4)


def test_ranks_see_by_the_components_of_the_one_that_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On machines that round otherwise, directions of like variance may be turned."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    config = table(principal_components=2)
    known = Statistics.of(config, sampled(config, ROWS, seed=0))
    leads = new_state(config, plan(), known).model.measured()
    found = answers(share_rank, 2, tmp_path)

    for expected, first, second in zip(leads, *found, strict=True):
        torch.testing.assert_close(first, expected)
        assert torch.equal(first, second)


def test_what_needs_the_whole_batch_is_not_divided() -> None:
    with pytest.raises(ConfigError, match="'wake_sleep' needs the whole batch"):
        new_state(table(), plan(objective="wake_sleep"), ranks=Ranks(0, 2))
