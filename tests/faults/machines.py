"""Machines that share a home in a bucket: processes, each with a working copy of its own.

They are forks of a process that has everything imported and has asked no store for anything.
"""

import multiprocessing
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import boto3  # noqa: F401  # here, so that no fork has to
import torch._dynamo  # noqa: F401

import flows.run_copies
import flows.train
from data.bucket import S3Path
from data.snapshot import open_snapshot
from flows.encode import publish
from flows.ingest import ingest_dataset
from flows.runs import RunFolder
from flows.settings import Home, resolve_home
from flows.spec import Spec
from flows.train import train_model
from tests.faults.crashes import die
from tests.faults.small import PART_ROWS

CHANGES = ("put_object", "delete_object")
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
START_S = 120

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.faults.machines"])


@dataclass(frozen=True)
class Machine:
    """One of them: where its working copies are, and which home it works in."""

    cache: Path
    home: str

    def begin(
        self, spec: Spec, *, change: int | None = None, step: int | None = None
    ) -> "Working":
        """Let it publish; it dies before its `change`-th change of the store, or after a step."""
        here, there = forks.Pipe(duplex=False)
        environment = {name: os.environ[name] for name in NAMES}
        environment |= {"LATENTS_CACHE": str(self.cache), "LATENTS_QUARANTINE": "off"}
        given = (spec, self.home, environment, change, step, there)
        process = forks.Process(target=_work, args=given)
        process.start()
        there.close()
        return Working(process, here)

    def run(self, spec: Spec) -> dict[str, Any]:
        """Let it publish; what it says of it."""
        return self.begin(spec).result()


@dataclass(frozen=True)
class Working:
    """A machine at work."""

    process: Any
    answer: Connection

    def result(self) -> dict[str, Any]:
        """What it says when it is done."""
        said = self.end()
        assert isinstance(said, dict), said
        return said

    def end(self) -> Any:
        """What it says when it is done, or why it failed; None where it was killed."""
        try:
            said = self.answer.recv() if self.answer.poll(START_S) else "no answer"
        except EOFError:
            said = None
        self.process.join(START_S)
        self.answer.close()
        return said


def _work(
    spec: Spec,
    home: str,
    environment: Mapping[str, str],
    change: int | None,
    step: int | None,
    answer: Connection,
) -> None:
    os.environ |= environment
    import data.snapshot

    data.snapshot.PART_ROWS = PART_ROWS
    if change is not None:
        die_before_change(change)
    if step is not None:
        flows.run_copies.LEAST_S = 0.0
        flows.run_copies.SHARE = 1.0
        vars(flows.train)["until"] = lambda _, steps: until_death(steps, step)
    try:
        answer.send(published(spec, resolve_home(home)))
    except Exception:  # noqa: BLE001  # the test shows it
        answer.send(traceback.format_exc())


def published(spec: Spec, home: Home) -> dict[str, Any]:
    """What leads to features, without a registry: the first version is champion."""
    ingested = ingest_dataset(spec, home)
    trained = train_model(spec, home, ingested.value["path"])
    encoder = {
        "name": spec.model_name,
        "version": 1,
        "digest": trained.value["digest"],
        "folder": str(RunFolder(Path(trained.value["path"])).model),
        "champion": True,
    }
    snapshot = open_snapshot(Path(ingested.value["path"]))
    encoded = publish(spec.encoding, home, snapshot, encoder)
    stages = (ingested, trained, encoded)
    return {
        "publication": encoded.value["id"],
        "digest": trained.value["digest"],
        "resumed": trained.value["resumed"],
        "reused": [stage.name for stage in stages if stage.reused],
    }


def die_before_change(number: int) -> None:
    """Let this process die just before its `number`-th change of the store."""
    changes, ask = count(1), S3Path._ask

    def counted(self: S3Path, operation: str, **options: Any) -> dict[str, Any]:
        if operation in CHANGES and next(changes) == number:
            die()
        return ask(self, operation, **options)

    S3Path._ask = counted  # type: ignore[method-assign]


def until_death(steps: Iterable[Any], last: int) -> Iterator[Any]:
    for number, step in enumerate(steps, 1):
        yield step
        if number == last:
            die()
