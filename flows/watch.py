"""`latents watch`: tell Prefect when new data have arrived at the source of a deployment.

It looks at names, sizes and times of files, or at what a bucket or a server says of them, not into
them. An event is sent once the source has changed and has then been the same at two looks: who
copies a large file is let to end. What was seen last is kept, so that nothing which came while
nobody watched is missed.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

from data.bucket import BucketError
from data.formats import SourceError
from data.publication import canonical_json, digest_of, replace_file
from data.remote import SCHEMES, remote
from flows.deploy import ARRIVAL_TAG
from flows.events import ARRIVED, announce
from flows.runs import read_record
from flows.server import server_address
from flows.settings import Home
from flows.spec import Spec

logger = logging.getLogger(__name__)

REMOTE_S = 30.0  # between two looks at what is elsewhere


def watch(home: Home, *, every_s: float) -> None:
    """Look every few seconds, for as long as this process lives."""
    kept = home.root / "watched.json"
    eye = Eye(read_record(kept) if kept.exists() else {})
    while True:
        try:
            sources = watched_sources()
        except httpx.HTTPError as error:
            logger.warning("Prefect does not answer: %s", error)
            sources = {}
        for name in eye.look(sources):
            announce(ARRIVED, name, {})
            logger.warning("new data of %s have arrived", name)
        if sources:
            replace_file(kept, canonical_json(eye.settled).encode())
        time.sleep(every_s)


def watched_sources() -> dict[str, str]:
    """The source of each deployment that starts on arrival, by data set.

    Raises:
        ServerError: no Prefect server is named.
    """
    server_address()
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[ARRIVAL_TAG]))
    with get_client(sync_client=True) as client:
        found = client.read_deployments(deployment_filter=tagged)
    specs = [Spec.model_validate(deployment.parameters["spec"]) for deployment in found]
    return {spec.dataset.name: spec.dataset.source for spec in specs}


class Eye:
    """Remembers what sources looked like, and tells which have come to rest in another state.

    What is elsewhere is asked for every `remote_s` seconds at most.
    """

    def __init__(self, settled: Mapping[str, str], *, remote_s: float = REMOTE_S) -> None:
        self.settled = dict(settled)  # what was last told, by data set
        self.glimpsed: dict[str, str] = {}
        self.remote_s = remote_s
        self.asked: dict[str, float] = {}  # when, of what is elsewhere

    def look(self, sources: Mapping[str, str]) -> Iterator[str]:
        """Yield the data sets whose source has changed and is still."""
        for name, source in sources.items():
            now = glimpse(source) if self._is_due(source) else None
            if now is None:
                continue
            still = self.glimpsed.get(name) == now
            self.glimpsed[name] = now
            if still and self.settled.setdefault(name, now) != now:
                self.settled[name] = now
                yield name

    def _is_due(self, source: str) -> bool:
        if not source.startswith(SCHEMES):
            return True
        due = time.monotonic() >= self.asked.get(source, -math.inf) + self.remote_s
        if due:
            self.asked[source] = time.monotonic()
        return due


def glimpse(source: str) -> str | None:
    """What a source looks like from outside; None where nothing is there, or can be seen."""
    if source.startswith(SCHEMES):
        try:
            return remote(source).digest
        except (SourceError, BucketError) as error:
            logger.warning("%s", error)
            return None
    if "://" in source:
        return None  # a database: what a query gives is told by asking it, whole
    paths = [Path(path) for path in glob(source)]  # noqa: PTH207  # a pattern of any depth
    files = sorted(
        file
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )
    if not files:
        return None
    stats = [(str(file), file.stat()) for file in files]
    return digest_of([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
