"""Exit codes of the command line: what each error means to a script that called us.

0 done, or already done      4 training diverged
2 command line or spec       5 the model did not pass the gate
3 data breaks its contract   6 trained or published, not registered
7 monitor: new data drifted
130 interrupted              143 terminated
"""

# By name, so that saying what went wrong with a spec need not import torch and mlflow.
EXIT_CODES = {
    "flows.spec.SpecError": 2,
    "flows.settings.HomeError": 2,
    "flows.lookup.NotFoundError": 2,
    "flows.backfill.BackfillError": 2,
    "flows.server.ServerError": 2,
    "data.bucket.BucketError": 1,
    "flows.up.StartError": 1,
    "flows.deadline.RunTimeoutError": 1,
    "flows.postgres.DatabaseError": 1,
    "data.durable.DiskFullError": 1,
    "flows.executor.ShardError": 1,
    "flows.ranks.RankError": 1,
    "vae_engine.config.ConfigError": 2,
    "data.contract.SpecError": 2,
    "data.contract.UnknownNameError": 2,
    "data.features.NotPublishedError": 2,
    "data.formats.SourceError": 3,
    "data.checking.ContractError": 3,
    "data.publication.FormatError": 3,
    "data.preprocessing.TooFewRowsError": 3,
    "vae_engine.artifact.ArtifactError": 3,
    "vae_engine.divergence.DivergedError": 4,
    "builtins.FloatingPointError": 4,
    "flows.gate.GateError": 5,
    "flows.tracking.TrackingError": 6,
}
DRIFTED = 7
INTERRUPTED = 130
TERMINATED = 143


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that we know how to explain; None for a defect of ours."""
    for cls in type(error).__mro__:
        code = EXIT_CODES.get(f"{cls.__module__}.{cls.__qualname__}")
        if code is not None:
            return code
    return None
