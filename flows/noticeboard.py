"""What Prefect's pages show of a run: progress, numbers, links, and assets with their lineage.

All of it is for reading. A server that is gone takes none of the work with it: what cannot be
pinned up is logged and let go.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import AssetContext
from prefect.exceptions import PrefectException

from flows import progress
from flows.runs import Stage

logger = logging.getLogger(__name__)

BETWEEN_UPDATES_S = 3.0  # of a progress bar
UNREACHABLE = (httpx.HTTPError, PrefectException, OSError)


def key_of(*words: str) -> str:
    """An artifact's key: lower case, digits and dashes are allowed."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


class ProgressBoard(logging.Handler):
    """Turns progress records into progress artifacts of the flow run."""

    def __init__(self, dataset: str) -> None:
        super().__init__(logging.INFO)
        self.dataset = dataset
        self.pinned: dict[str, UUID] = {}
        self.updated: dict[str, float] = {}
        self.is_lost = False  # each try would hold up the work that it tells of

    def emit(self, record: logging.LogRecord) -> None:
        """Pin up one record; the first, the last, and one every few seconds."""
        fields: Mapping[str, Any] | None = getattr(record, "progress", None)
        if fields is None or self.is_lost:
            return
        stage, share = fields["stage"], 100.0 * fields["done"] / fields["total"]
        if share < 100 and monotonic() - self.updated.get(stage, -1e9) < BETWEEN_UPDATES_S:
            return
        self.updated[stage] = monotonic()
        try:
            self._pin(stage, share, str(fields["text"]))
        except UNREACHABLE as error:
            self.is_lost = True
            logger.debug("progress of %s and what follows is not shown: %s", stage, error)

    def _pin(self, stage: str, share: float, text: str) -> None:
        if stage in self.pinned:
            update_progress_artifact(self.pinned[stage], progress=share, description=text)
            return
        made = create_progress_artifact(
            progress=share, key=key_of(self.dataset, stage), description=text
        )
        assert isinstance(made, UUID), "there is no event loop here, so that it is no coroutine"
        self.pinned[stage] = made


@contextmanager
def progress_board(dataset: str) -> Iterator[None]:
    """Show progress of the stages in Prefect while the block runs."""
    board = ProgressBoard(dataset)
    source = progress.logger
    before = source.level
    source.setLevel(logging.INFO)
    source.addHandler(board)
    try:
        yield
    finally:
        source.removeHandler(board)
        source.setLevel(before)


def pin_summary(summary: Mapping[str, Any], tracking_uri: str) -> None:
    """Pin up what the run found and where everything is."""
    dataset = summary["dataset"]
    try:
        create_markdown_artifact(
            markdown=markdown(summary), key=key_of(dataset, "summary"), description=dataset
        )
        if rows := numbers(summary):
            create_table_artifact(
                table=rows, key=key_of(dataset, "metrics"), description="with standard errors"
            )
        for name, address in links(summary, tracking_uri).items():
            create_link_artifact(link=address, link_text=name, key=key_of(dataset, name))
    except UNREACHABLE as error:
        logger.warning("the summary is not shown in Prefect: %s", error)


def pin_drift(found: Mapping[str, Any]) -> None:
    """Pin up what a monitor saw: its verdict, and each column in a line."""
    dataset = found["dataset"]
    champion = found["champion"]
    text = (
        f"# {dataset}\n\n**{found['verdict']}**\n\n{found['rows']:,} rows, held against the "
        f"train rows of {champion['name']} version {champion['version']}\n"
    )
    shown = ("name", "verdict", "distance", "ks", "why")
    rows = [{name: column[name] for name in shown} for column in found["columns"]]
    try:
        create_markdown_artifact(
            markdown=text, key=key_of(dataset, "drift"), description=dataset
        )
        if rows:
            create_table_artifact(
                table=rows, key=key_of(dataset, "drift", "columns"), description="by column"
            )
    except UNREACHABLE as error:
        logger.warning("the drift is not shown in Prefect: %s", error)


def numbers(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measured numbers, one a row."""
    return [
        {
            "metric": f"test {name} (nats)",
            "value": summary[name]["nats"],
            "stderr": summary[name]["stderr"],
        }
        for name in ("elbo", "log_marginal", "independent")
        if name in summary
    ]


def links(summary: Mapping[str, Any], tracking_uri: str) -> dict[str, str]:
    """Where to look further."""
    found = {}
    if "report" in summary:
        found["report"] = f"file://{summary['report']}"
    if "publication" in summary:
        found["publication"] = f"file://{summary['publication']['path']}"
    if "model" in summary and tracking_uri.startswith("http"):
        base = tracking_uri.rstrip("/")
        model = summary["model"]
        found["mlflow"] = f"{base}/#/models/{model['name']}/versions/{model['version']}"
    return found


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    counts = summary["rows"]
    lines = [
        f"# {summary['dataset']}",
        f"{counts['in']:,} rows in, snapshot `{summary['fingerprint']}`",
    ]
    for name, text in (("elbo", "test ELBO"), ("log_marginal", "test log p(x)")):
        if name in summary:
            value = summary[name]
            lines.append(
                f"**{text}** {value['nats']:.2f} ± {value['stderr']:.2f} nats "
                f"({value['rows']:,} rows)"
            )
    if model := summary.get("model"):
        aliases = ", ".join(model["aliases"]) or "no alias"
        lines.append(
            f"**model** {model['name']} version {model['version']} ({aliases}): "
            f"{model['verdict']}"
        )
    if publication := summary.get("publication"):
        lines.append(
            f"**features** {publication['rows']:,} rows by version "
            f"{publication['model_version']}, publication `{publication['id']}`\n\n"
            f"```python\n{publication['read']}\n```"
        )
    stages = "  ".join(f"{name}: {at['status']}" for name, at in summary["stages"].items())
    return "\n\n".join([*lines, stages]) + "\n"


def asset_key(dataset: str, kind: str) -> str:
    """The asset `kind` (snapshot, model, features) of a data set."""
    return f"latents://{dataset}/{kind}"


def describe_asset(stage: Stage, **metadata: Any) -> Stage:
    """Say of the task's asset what it is now, or that it was there and is not made anew."""
    context = AssetContext.get()
    if context is None:
        return stage
    if stage.reused:
        context.downstream_assets.clear()  # then no event says that something was made
    for asset in context.downstream_assets:
        context.add_asset_metadata(asset.key, metadata)
    return stage
