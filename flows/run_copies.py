"""Trainings in a bucket: what another machine needs to go on, or to find them done.

    runs/<run id>/checkpoint.tar         a checkpoint, with the best weights and the metrics
                                         until then; replaced by the next
    runs/<run id>/trained-<digest>.tar   plan, metrics and the artifact with this digest
    runs/<run id>/trained.json           says which artifact it is: the first that was written

Each is one object, whole or not there. Where a home is on a disk, nothing here does anything.
"""

import logging
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import perf_counter

from data.bucket import BucketError, S3Path
from data.publication import file_digest
from data.working_copy import bring, bring_published, copy_of, refresh
from flows.runs import RunFolder, read_record

logger = logging.getLogger(__name__)

RECORDS = ("*.json", "report.html", "figures/*")  # a file each, in the bucket as here
SHARE = 0.05  # of the time of a training that uploads may take
LEAST_S = 30.0  # between two of them


def bring_run(folder: RunFolder) -> None:
    """Bring what other machines left of a run: records, model, and what snapshot it is of."""
    bring(folder.path, *RECORDS)
    refresh(folder.record("drift"))
    if folder.plan.exists():
        bring_published(folder.snapshot)
    trained = folder.record("trained")
    if trained.exists():
        bring_training(folder, read_record(trained)["digest"])


@dataclass
class Uploads:
    """Brings checkpoints of a training into the bucket, each when it is due."""

    folder: RunFolder
    due: float = field(default_factory=lambda: perf_counter() + LEAST_S)

    def offer(self) -> None:
        """Upload the newest checkpoint, unless the last upload was a short while ago."""
        if perf_counter() >= self.due:
            self.upload()

    def upload(self) -> None:
        """Upload the newest checkpoint; a store that does not answer is no reason to stop."""
        place, newest = _place(self.folder), _newest(self.folder.checkpoints)
        if place is None or newest is None:
            return
        started = perf_counter()
        parts = [newest, self.folder.best, self.folder.metrics, self.folder.plan]
        try:
            with _packed(self.folder, parts) as packed:
                (place / "checkpoint.tar").replace(packed, {"step": str(_step(newest))})
        except BucketError as error:
            logger.warning("the checkpoint is on this machine only: %s", error)
        took_s = perf_counter() - started
        self.due = perf_counter() + max(LEAST_S, took_s / SHARE)


def bring_checkpoint(folder: RunFolder) -> None:
    """Bring the checkpoint in the bucket, if it is of a later step than those here."""
    place = _place(folder)
    said = None if place is None else (place / "checkpoint.tar").metadata()
    if place is None or said is None:
        return
    newest = _newest(folder.checkpoints)
    if newest is not None and _step(newest) >= int(said["step"]):
        return
    # The checkpoint comes last: until it is here, the same is brought again.
    _take(folder, place / "checkpoint.tar", "best", "metrics.jsonl", "plan.json", "checkpoints")


def forget_checkpoint(folder: RunFolder) -> None:
    """Remove the checkpoint from the bucket: the run is trained."""
    place = _place(folder)
    if place is not None:
        (place / "checkpoint.tar").unlink()


def share_training(folder: RunFolder, digest: str) -> None:
    """Bring the artifact with this digest into the bucket, and how it was made."""
    place = _place(folder)
    if place is not None:
        parts = [folder.plan, folder.preprocessor, folder.metrics, folder.model]
        with _packed(folder, parts) as packed:
            _trained(place, digest).put_once(packed)
        (place / folder.plan.name).put_once(folder.plan)


def bring_training(folder: RunFolder, digest: str) -> None:
    """Bring the artifact with this digest, unless it is the one here."""
    place, sums = _place(folder), folder.model / "SHA256SUMS"
    if place is not None and not (sums.exists() and file_digest(sums) == digest):
        names = ("plan.json", "preprocessor.json", "metrics.jsonl", "model")
        _take(folder, _trained(place, digest), *names)


def _trained(place: S3Path, digest: str) -> S3Path:
    return place / f"trained-{digest[:16]}.tar"


def _place(folder: RunFolder) -> S3Path | None:
    copy = copy_of(folder.path)
    return None if copy is None else copy.place(folder.path)


def _newest(checkpoints: Path) -> Path | None:
    return max(checkpoints.glob("step-*"), default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


@contextmanager
def _packed(folder: RunFolder, parts: list[Path]) -> Iterator[Path]:
    """Yield a file that has the parts of a run in it; it is gone afterwards."""
    with NamedTemporaryFile(dir=folder.path, prefix=".packed-") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for part in parts:
                tar.add(part, part.relative_to(folder.path))
        file.flush()
        yield Path(file.name)


def _take(folder: RunFolder, packed: S3Path, *names: str) -> None:
    """Unpack an object, and put what it holds in the place of what the run has, in this order."""
    copy = copy_of(folder.path)
    assert copy is not None
    with copy.arriving() as scratch:
        with (scratch / "packed.tar").open("wb") as file:
            file.writelines(packed.blocks())
        with tarfile.open(scratch / "packed.tar") as tar:
            tar.extractall(scratch, filter="data")
        for name in names:
            found, here = scratch / name, folder.path / name
            if here.is_dir():
                shutil.rmtree(here)
            folder.path.mkdir(parents=True, exist_ok=True)
            found.replace(here)
