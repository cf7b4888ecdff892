"""The processes of one training: started on this machine, or started by someone else and joined."""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from flows.stopping import Stop
from vae_engine.distributed import Ranks

BOTH = "cpu:gloo,cuda:nccl"  # of the backends, each for its device
PATIENCE = timedelta(hours=12)  # of a rank for the others, of which the first may pack rows
LOOK_S = 0.2  # between two looks whether the work is to stop
GRACE_S = 5.0  # for a rank to say what ended it, when another has lost it


Work = Callable[[Ranks, Stop], None]


class RankError(RuntimeError):
    """A process of a training died."""


@contextmanager
def joined(rank: int, world: int, meeting: str = "env://") -> Iterator[Ranks]:
    """Be a rank of a process group for the time of the block: NCCL on GPUs, else gloo.

    `meeting` is where the ranks find each other; "env://" is what torchrun says.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = BOTH
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=world, timeout=PATIENCE
    )
    try:
        yield Ranks(rank, world)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Outcome:
    """The last thing that a rank says."""

    error: Exception | None = None


def spawned(work: Work, processes: int, stop: threading.Event) -> None:
    """Run `work` in so many new processes; end with the first error of one of them.

    Raises:
        RankError: a process died without a word.
    """
    context = multiprocessing.get_context("spawn")
    wished = context.Event()
    with TemporaryDirectory(prefix="latents-") as folder:
        meeting = f"file://{Path(folder) / 'ranks'}"
        ranks: dict[Connection, tuple[int, BaseProcess]] = {}
        for rank in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            target = partial(_be, work, rank, processes, meeting, wished, theirs)
            process: BaseProcess = context.Process(
                target=target, name=f"rank {rank}", daemon=True
            )
            process.start()
            theirs.close()  # so that the pipe ends with the process
            ranks[ours] = rank, process
        try:
            _follow(ranks, wished, stop)
        finally:
            for _, process in ranks.values():
                process.terminate()
                process.join()


def _follow(
    ranks: dict[Connection, tuple[int, BaseProcess]], wished: Event, stop: threading.Event
) -> None:
    """Log what the ranks log, pass on that they are to stop, and wait for the end of all."""
    talking, lost, until_s = set(ranks), None, math.inf
    while talking and time.monotonic() < until_s:
        if stop.is_set():
            wished.set()
        for pipe in wait(list(talking), timeout=LOOK_S):
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError:
                rank, process = ranks[pipe]
                process.join()
                raise RankError(
                    f"rank {rank} of {len(ranks)} died (exit code {process.exitcode}); run the "
                    f"same command again to resume at the last checkpoint"
                ) from None
            if isinstance(said, logging.LogRecord):
                logging.getLogger(said.name).handle(said)
            elif said.error is None:
                talking.discard(pipe)
            elif _is_loss(said.error):  # of another rank, which may still say why
                talking.discard(pipe)
                lost, until_s = lost or said.error, min(until_s, time.monotonic() + GRACE_S)
            else:
                raise said.error
    if lost is not None:
        raise lost


def _is_loss(error: Exception) -> bool:
    """Whether it is what a backend raises when another rank has gone."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


def _be(
    work: Work, rank: int, world: int, meeting: str, wished: Event, pipe: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    if rank == 0:
        ours = logging.getLogger("flows")
        ours.setLevel(logging.INFO)
        ours.addHandler(_ToParent(pipe))
    try:
        with joined(rank, world, meeting) as ranks:
            try:
                work(ranks, wished)
            except Exception as error:  # noqa: BLE001  # raised in the parent; said before we leave
                pipe.send(_Outcome(error))
                return
    except Exception as error:  # noqa: BLE001  # ranks that never met
        pipe.send(_Outcome(error))
    else:
        pipe.send(_Outcome())


class _ToParent(logging.Handler):
    """Sends log records through a pipe: progress is shown by the process that has a console."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send one, as text."""
        record.msg, record.args = record.getMessage(), None
        self.pipe.send(record)
