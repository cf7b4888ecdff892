"""Training by Ray Train: the ranks are workers of a cluster, whose nodes share the home."""

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from flows.executor import connected
from flows.ranks import BOTH, Work
from flows.spec import ExecutionSection, SpecError
from vae_engine.distributed import Ranks

RESTARTS = 2  # of all workers, from the last checkpoint, when one of them dies


def trained_on_ray(work: Work, wanted: ExecutionSection, device: str, folder: Path) -> None:
    """Run `work` in as many workers as `wanted` has processes, each with a GPU if that is the device.

    Ray keeps what it notes of the run in `folder`; the checkpoints are ours.

    Raises:
        SpecError: the device is a GPU, and the cluster has fewer than workers.
        Exception: what a worker raised, when it has failed once more than it may.
    """
    ray = connected(wanted.address)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    try:
        gpus = on_gpus(device, wanted.processes, int(ray.cluster_resources().get("GPU", 0)))
        TorchTrainer(
            partial(_be, work),
            train_loop_config={},
            torch_config=TorchConfig(backend=BOTH if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=wanted.processes, use_gpu=gpus),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()
    except WorkerGroupError as error:
        raise next(iter(error.worker_failures.values()), error) from None
    finally:
        ray.shutdown()


def on_gpus(device: str, workers: int, there: int) -> bool:
    """Whether each worker asks for a GPU: as the spec says, and `auto` where there are enough.

    Raises:
        SpecError: the spec says so, and there are too few.
    """
    if device.startswith("cuda") and there < workers:
        raise SpecError(
            f"training.device is {device!r} for {workers} workers, and Ray's cluster has {there} "
            f"GPUs: lower execution.processes, or leave the device to 'auto'"
        )
    return device != "cpu" and there >= workers


def _be(work: Work, _: Mapping[str, Any]) -> None:
    work(Ranks(dist.get_rank(), dist.get_world_size()), threading.Event())
