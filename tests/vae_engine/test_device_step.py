"""Steps that ask nothing of the host: the numbers of those that do, judged when they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vae_engine.rows import MIXED, MORE, PICTURE, grey, pictures, plan, sampled, table
from tests.vae_engine.test_memory import FIT, Crowded
from vae_engine import checkpoint, device_step
from vae_engine.config import ModelConfig, TrainingPlan
from vae_engine.device_step import DeviceStep, applies
from vae_engine.divergence import DivergedError, ExplodedError
from vae_engine.explosion import WINDOW
from vae_engine.training import (
    Batch,
    StepReport,
    TrainState,
    fit,
    minibatches,
    new_state,
    train_step,
)

ROWS = 50  # in batches of 16: an epoch ends with two
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SETTINGS: dict[str, dict[str, Any]] = {
    "elbo": {"samples": 2},
    "sampled": {"objective": "elbo_sampled", "clip_norm": None},
    "sticking": {"objective": "elbo_sticking"},
    "iwae": {"objective": "iwae", "samples": 3},
    "doubly reparameterized": {"objective": "iwae_doubly_reparameterized", "samples": 3},
    "miwae": {"objective": "miwae", "samples": 4, "groups": 2},
    "piwae": {"objective": "piwae", "samples": 4, "groups": 2},
    "warm-up": {"warmup_steps": 12, "beta": 0.5},
    "free nats": {"free_nats": 0.1},
    "free nats at first": {"free_nats": 0.1, "free_steps": 5},
    "maximum a posteriori": {"weight_prior": True},
    "adamw, clipped": {"optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 0.5},
    "average": {"average_decay": 0.9},
    "cosine": {"schedule": "cosine"},
    "half precision": {"precision": "bfloat16"},
}


def begun(
    *, on_device: bool = True, config: ModelConfig | None = None, **settings: Any
) -> TrainState:
    """A state whose steps are those of a device, here on the CPU, or those of autograd."""
    state = new_state(config or table(), plan(**settings), rows=ROWS)
    state.explicit = None
    if on_device and state.on_device is None:
        state.on_device = DeviceStep(state.model, state.ascent, state.optimizer, state.average)
    return state


def tensors(state: TrainState) -> list[Tensor]:
    """All that training changes."""
    found = [*state.model.parameters(), *(state.average or {}).values()]
    for parameter in state.model.parameters():
        moments = state.optimizer.state[parameter]
        found += [moments[name] for name in sorted(moments)]
    return [tensor.detach().clone() for tensor in found]


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def reports(state: TrainState, x: Tensor, every: int = 5) -> list[StepReport]:
    return list(
        fit(state, minibatches(x, state.plan, start_step=state.step), report_every=every)
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_autograd(name: str) -> None:
    """To rounding, which Adam carries from step to step; two batches are short."""
    config = table(columns=MIXED[:4], hidden=(8,))
    x = sampled(config, ROWS)
    settings = {"steps": 10, **SETTINGS[name]}
    ours, theirs = (begun(on_device=d, config=config, **settings) for d in (True, False))
    found, expected = reports(ours, x), reports(theirs, x)

    assert [r.step for r in found] == [r.step for r in expected] == [5, 10]
    for report, same_report in zip(found, expected, strict=True):
        assert report == pytest.approx(same_report, rel=2e-3)
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
    assert ours.watch.recent == pytest.approx(theirs.watch.recent, rel=2e-3)


def test_a_step_that_is_not_finite_changes_nothing_nor_do_those_after_it() -> None:
    x = sampled(table(), 160)
    batches = [Batch(rows) for rows in x.clone().split(16)]
    batches[4].x[3, 7] = torch.inf
    batches.insert(5, Batch(x[:2]))  # as few rows as come before the one to blame
    state, other = (begun(average_decay=0.9) for _ in range(2))

    with pytest.raises(DivergedError) as caught:
        list(fit(state, batches, report_every=8))
    for batch in batches[:4]:
        train_step(other, batch)
    message = str(caught.value)

    assert state.step == 4
    assert message.startswith("training diverged at step 5: ")
    assert "The weights are those before the step." in message
    assert "infinite cells: change, in 1 rows of the batch, the first of them 3\n" in message
    assert same(tensors(state), tensors(other))
    for either in (state, other):
        train_step(either, batches[5])
    assert same(tensors(state), tensors(other))


def test_the_last_steps_of_a_run_are_judged_too() -> None:
    batches = [Batch(rows) for rows in sampled(table(), 48).split(16)]
    batches[2].x[0, 7] = torch.inf

    with pytest.raises(DivergedError, match="diverged at step 3: "):
        list(fit(begun(), batches, report_every=50))


def test_an_explosion_is_noticed_at_the_next_report() -> None:
    x = sampled(pictures(), 50)
    late, at_once = (
        begun(on_device=d, config=pictures(), learning_rate=1e3) for d in (True, False)
    )
    with pytest.raises(
        ExplodedError, match=r"(?s)diverged at step \d+: .*times worse"
    ) as caught:
        list(fit(late, [Batch(x)] * 80, report_every=40))
    with pytest.raises(ExplodedError):
        list(fit(at_once, [Batch(x)] * 80, report_every=40))
    later = 40 - at_once.step

    assert f"diverged at step {at_once.step + 1}: " in str(caught.value)
    assert f"The device was asked {later} steps later" in str(caught.value)
    assert (late.step, len(late.watch.recent)) == (40, WINDOW)


def test_a_checkpoint_takes_note_of_all_steps_before_it(tmp_path: Path) -> None:
    """And what goes on from it, in other moments than those of the first steps, is the same."""
    x = sampled(table(), ROWS)
    first, straight, resumed = (begun(average_decay=0.9, warmup_steps=5) for _ in range(3))
    for batch in islice(minibatches(x, first.plan), 7):
        train_step(first, batch)
    checkpoint.save(tmp_path, first, {})
    assert len(first.watch.recent) == 3  # of seven steps, four of them in the warm-up

    reports(resumed, x)
    train_step(resumed, Batch(x[:16]))  # which nobody will ask about
    resumed.take(begun(average_decay=0.9, warmup_steps=5))
    checkpoint.load_latest(tmp_path, resumed)
    reports(resumed, x)
    reports(straight, x)
    assert same(tensors(resumed), tensors(straight))
    assert resumed.watch == straight.watch


def test_more_steps_than_there_are_places_for_are_read_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = sampled(table(), ROWS)
    roomy = begun()
    reports(roomy, x, every=20)
    monkeypatch.setattr(device_step, "MOST_STEPS", 3)
    narrow = begun()
    reports(narrow, x, every=20)

    assert same(tensors(narrow), tensors(roomy))
    assert narrow.watch == roomy.watch


def test_batches_of_other_sizes_and_kinds_than_the_plan_says_are_taken() -> None:
    ours, theirs = (begun(on_device=d, config=pictures()) for d in (True, False))
    for state in (ours, theirs):
        for rows in (5, 16, 40, 16):
            train_step(state, Batch(grey(rows)))
    assert ours.settle() is not None
    assert ours.settle() is None

    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_a_step_that_no_longer_fits_is_taken_in_parts_with_all_that_follow() -> None:
    """In float64, for its digits: Adam makes much of the last ones."""
    torch.set_default_dtype(torch.float64)
    try:
        x = sampled(table(), ROWS)
        sizes = (FIT, FIT, 16, FIT, 16)
        crowded, roomy = begun(), begun()
        crowded.model.__class__ = Crowded
        for state in (crowded, roomy):
            for rows in sizes:
                train_step(state, Batch(x[:rows]))
            state.settle()
    finally:
        torch.set_default_dtype(torch.float32)

    assert (crowded.parts.count, crowded.on_device) == (4, None)
    assert crowded.watch.recent == pytest.approx(roomy.watch.recent, rel=1e-9)
    for one, other in zip(tensors(crowded), tensors(roomy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def flat(items: Sequence[Any]) -> list[Any]:
    return [
        one for item in items for one in (item if isinstance(item, list | tuple) else [item])
    ]


class NoAnswers(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU, or copy from memory that may be paged."""

    WAITS = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal")

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function._schema.name.removeprefix("aten::")
        assert name not in self.WAITS, f"{name} waits for the device"
        if name.startswith(
            "index"
        ):  # by a mask, of which it would have to be counted how much is true
            assert not any(torch.is_tensor(i) and i.dtype == torch.bool for i in flat(args[1:]))
        return function(*args, **(kwargs or {}))


VARIED = replace(table(), columns=MIXED + MORE)
MODELS = {
    "all kinds of columns": VARIED,
    "embedded codes": replace(VARIED, one_hot_up_to=2),
    "principal components": table(principal_components=2),
    "full covariance": table(posterior="full"),
    "inverse autoregressive flow": table(posterior="iaf"),
    "splines": table(posterior="spline"),
    "mixture": table(prior="mixture"),
    "vamp": table(prior="vamp"),
    "flow prior": table(prior="flow"),
    "two layers": table(upper_latents=2),
    "convolutions": ModelConfig(
        columns=(replace(PICTURE, width=64, image=(8, 8, 1)),),
        network="conv",
        latents=3,
        hidden=(4,),
    ),
    "residual": ModelConfig(
        columns=(replace(PICTURE, width=64, image=(8, 8, 1)),),
        network="residual",
        latents=3,
        hidden=(4,),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning:zuko.*")
def test_no_model_asks_anything_of_the_host_between_reports(name: str) -> None:
    """So that its step can be captured."""
    config = MODELS[name]
    state = begun(config=config, samples=2, average_decay=0.9, warmup_steps=9)
    batches = list(minibatches(sampled(config, ROWS), state.plan))[:4]
    train_step(state, batches[0])
    with NoAnswers():
        for batch in batches[1:]:
            train_step(state, batch)
    last = state.settle()

    assert last is not None
    assert state.step == 4


def test_what_draws_more_than_noise_or_is_on_a_cpu_or_in_several_processes_goes_another_way() -> (
    None
):
    def on(device: str, **settings: Any) -> bool:
        return applies(replace(TrainingPlan(seed=0, steps=1, device=device), **settings))

    assert on("cuda")
    assert on(
        "cuda:1", objective="iwae", optimizer="adamw", precision="bfloat16", free_nats=0.0
    )
    assert not on("cpu")
    for objective in ("full_bayes", "wake_sleep", "mcem"):
        assert not on("cuda", objective=objective)
    assert not on("cuda", optimizer="adagrad")
    assert new_state(table(), plan()).on_device is None


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_captured_steps_are_those_of_autograd(name: str) -> None:
    x = sampled(table(), ROWS).cuda()
    ours, theirs = (begun(device="cuda", **SETTINGS[name]) for _ in range(2))
    theirs.on_device = None
    found, expected = reports(ours, x), reports(theirs, x)

    assert len(found) == len(expected) == 4
    for report, same_report in zip(found, expected, strict=True):
        assert report == pytest.approx(same_report, rel=1e-2)
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_run_on_a_gpu_resumes_bit_for_bit(tmp_path: Path) -> None:
    x = sampled(table(), ROWS).cuda()
    settings: dict[str, Any] = {"device": "cuda", "average_decay": 0.9, "warmup_steps": 5}
    first, straight, resumed = (begun(**settings) for _ in range(3))
    for batch in islice(minibatches(x, first.plan), 7):
        train_step(first, batch)
    checkpoint.save(tmp_path, first, {})
    for state in (first, straight):
        reports(state, x)
    train_step(resumed, Batch(x[:16]))
    checkpoint.load_latest(tmp_path, resumed)
    reports(resumed, x)

    assert same(tensors(first), tensors(straight))
    assert same(tensors(resumed), tensors(straight))


@pytest.mark.gpu
@needs_gpu
def test_captured_steps_do_not_wait_and_halt_where_they_should() -> None:
    config = replace(table(), columns=MIXED[:4])
    x = sampled(config, 160).cuda()
    batches = [Batch(rows) for rows in x.split(16)]
    batches[6].x[3, 0] = torch.inf
    state, other = (begun(config=config, device="cuda") for _ in range(2))
    train_step(state, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            train_step(state, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(DivergedError, match="diverged at step 7: "):
        state.settle()
    for batch in batches[:6]:
        train_step(other, batch)
    other.settle()

    assert state.step == 6
    assert same(tensors(state), tensors(other))


@pytest.mark.gpu
@needs_gpu
def test_a_compiled_objective_is_the_objective() -> None:
    x = sampled(table(), ROWS).cuda()
    settled = plan(device="cuda")
    plain, compiled = (new_state(table(), settled, compiled=c) for c in (False, True))

    for one, other in zip(reports(compiled, x), reports(plain, x), strict=True):
        assert one == pytest.approx(other, rel=1e-2)
