"""Checkpoints: whole or absent, and only for the run that wrote them."""

import json
from pathlib import Path

import pytest
import torch

from tests.vae_engine.rows import pictures, plan, sampled, table
from vae_engine import checkpoint
from vae_engine.checkpoint import CheckpointError, load_latest, save
from vae_engine.training import TrainState, fit, minibatches, new_state


def after(steps: int, **settings: object) -> TrainState:
    state = new_state(table(), plan(steps=steps, **settings))
    for _ in fit(state, minibatches(sampled(table(), 50), state.plan)):
        pass
    return state


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    state, blank = after(5), new_state(table(), plan())
    save(tmp_path, state, {"best": 1.5, "history": [1, 2]})

    assert load_latest(tmp_path, blank) == {"best": 1.5, "history": [1, 2]}
    assert blank.step == 5
    for ours, theirs in zip(state.model.parameters(), blank.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for key, value in state.optimizer.state[ours].items():
            assert torch.equal(value, blank.optimizer.state[theirs][key])


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "absent", new_state(table(), plan())) is None


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for steps in (1, 2, 3):
        save(tmp_path, after(steps), {})

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000002",
        "step-000000003",
    ]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, after(1), {"at": 1})
    newest = save(tmp_path, after(2), {"at": 2}) / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    state = new_state(table(), plan())

    assert load_latest(tmp_path, state) == {"at": 1}
    assert state.step == 1


def test_a_crash_while_writing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, after(1), {"at": 1})
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, after(2), {"at": 2})

    assert load_latest(tmp_path, new_state(table(), plan())) == {"at": 1}


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, after(2), {"at": "first"})
    save(tmp_path, after(2), {"at": "second"})

    assert load_latest(tmp_path, new_state(table(), plan())) == {"at": "second"}


def test_another_run_is_refused_and_the_differences_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path, after(2), {})
    other = new_state(table(), plan(learning_rate=0.5, steps=99))

    with pytest.raises(CheckpointError) as caught:
        load_latest(tmp_path, other)
    assert str(caught.value) == (
        f"{folder} was written by another run: plan.learning_rate differ. Train in another "
        f"folder, or restore the settings of that run."
    )
    with pytest.raises(CheckpointError, match=r"config\.columns"):
        load_latest(tmp_path, new_state(pictures(), plan()))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, after(2), {}) / "state.json"
    description = json.loads(path.read_text()) | {"format_version": checkpoint.VERSION + 1}
    path.write_text(json.dumps(description))

    with pytest.raises(CheckpointError, match="this code reads"):
        load_latest(tmp_path, new_state(table(), plan()))
