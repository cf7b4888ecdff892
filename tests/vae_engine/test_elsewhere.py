"""All that is done with a model on another device: nothing of it is left behind on the host."""

from pathlib import Path

import pytest
import torch

from tests.vae_engine.elsewhere import pretended
from tests.vae_engine.rows import pictures, plan, sampled, table
from tests.vae_engine.test_device_step import MODELS
from vae_engine import artifact, checkpoint
from vae_engine.config import ModelConfig
from vae_engine.device_step import DeviceStep
from vae_engine.divergence import DivergedError
from vae_engine.encoding import encode
from vae_engine.evaluation import evaluate
from vae_engine.marginal import estimate_log_marginal
from vae_engine.statistics import Statistics
from vae_engine.training import TrainState, fit, minibatches, new_state

ROWS = 40
KEYS = torch.arange(ROWS)
LIKE_OTHERS = {"splines", "residual", "full covariance"}


def trained(config: ModelConfig, device: str) -> TrainState:
    x = sampled(config, ROWS)
    settled = plan(steps=6, device=device, average_decay=0.9, warmup_steps=3)
    state = new_state(config, settled, Statistics.of(config, x))
    state.explicit = None
    state.on_device = DeviceStep(state.model, state.ascent, state.optimizer, state.average)
    for _ in fit(state, minibatches(x, settled, KEYS), report_every=3):
        pass
    return state


@pytest.mark.parametrize("name", ["pictures", *sorted(MODELS.keys() - LIKE_OTHERS)])
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_life_elsewhere_is_that_on_the_host(name: str, tmp_path: Path) -> None:
    config = MODELS.get(name, pictures())
    x = sampled(config, ROWS)
    at_home = trained(config, "cpu").averaged_model()
    expected = evaluate(at_home, [(x, KEYS)], samples=2, seed=0).elbo.mean
    with pretended():
        state = trained(config, "meta")
        model = state.averaged_model()
        found = evaluate(model, [(x, KEYS)], samples=2, seed=0).elbo.mean
        checkpoint.save(tmp_path / "checkpoints", state, {})
        checkpoint.load_latest(tmp_path / "checkpoints", state)
        digest = artifact.save_model(tmp_path / "model", model, x[:4])
        mean, _ = encode(model, x.to("meta"))
        estimate = estimate_log_marginal(
            model, x.to("meta"), KEYS.to("meta"), samples=3, seed=0
        )
        features = mean.tolist()
        nats = estimate.log_marginal_nats.tolist()

    kept = artifact.load_model(tmp_path / "model", digest=digest)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(torch.tensor(features), encode(kept, x)[0])
    again = estimate_log_marginal(kept, x, KEYS, samples=3, seed=0)
    torch.testing.assert_close(
        torch.tensor(nats), again.log_marginal_nats, rtol=1e-4, atol=1e-3
    )


def test_what_diverges_elsewhere_is_told_here() -> None:
    x = sampled(table(), ROWS)
    x[:, 7] = torch.inf
    with pretended():
        state = new_state(table(), plan(device="meta"))
        state.on_device = DeviceStep(state.model, state.ascent, state.optimizer, None)
        with pytest.raises(DivergedError, match="infinite cells: change, in 16 rows"):
            list(fit(state, minibatches(x, state.plan), report_every=2))


def test_operands_on_two_devices_are_refused() -> None:
    with pretended(), pytest.raises(AssertionError, match="mul of operands on two devices"):
        torch.ones(3, device="meta") * torch.ones(3)
