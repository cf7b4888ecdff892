"""The model card: what a model is, in prose, beside its weights."""

from data.snapshot import Snapshot
from vae_engine.config import ModelConfig, TrainingPlan


def model_card(config: ModelConfig, plan: TrainingPlan, snapshot: Snapshot, run_id: str) -> str:
    """Markdown for `MODEL_CARD.md`; it holds no numbers that evaluation would change."""
    columns = "\n".join(
        f"| {column.name} | {column.likelihood} | {column.width} |" for column in config.columns
    )
    components = config.principal_components
    seen = f"{components} principal components of wide inputs" if components else "all inputs"
    return f"""# Variational auto-encoder of {snapshot.name}

Run {run_id}, on snapshot {snapshot.fingerprint} ({snapshot.rows:,} rows,
{snapshot.split_rows["train"]:,} of them trained on).

- **What it gives**: for each row the mean and standard deviation of q(z | x) in
  {config.latents} dimensions, in nats where a number is a log-probability.
- **What it is not**: latent spaces of two versions are not comparable; features of one
  version must not be joined with those of another.
- **Model**: {config.network} {config.hidden}, {config.activation}, posterior
  {config.posterior}, prior {config.prior}; the encoder sees {seen}.
- **Training**: objective {plan.objective}, {plan.samples} sample(s) a row, batches of
  {plan.batch_rows}, {plan.optimizer} at {plan.learning_rate}, seed {plan.seed}.

| column | likelihood | entries |
|---|---|---|
{columns}

Loading this folder runs no code: weights are safetensors, everything else is JSON, and each
file's digest is in SHA256SUMS.
"""
