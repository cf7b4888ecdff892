"""Everything that is known of one run, as its folder and the published features have it.

Records that a run may lack (it failed its gate, nothing was published, nobody watched for
drift) are None, and whoever shows them leaves them out.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.contract import Contract
from data.features import FORMAT as FEATURES
from data.features import VERSION as FEATURES_VERSION
from data.features import latest_of
from data.profile import Profile
from data.publication import digest_of, file_digest, read_manifest
from data.snapshot import Snapshot, open_snapshot
from data.working_copy import bring, place_of
from flows.lookup import NotFoundError, near
from flows.run_copies import bring_run
from flows.runs import RunFolder, read_metrics, read_record
from flows.settings import Home

Record = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """One run, read once."""

    home: Home
    folder: RunFolder
    plan: Record
    trained: Record
    metrics: list[Record]
    evaluation: Record
    gate: Record | None
    registration: Record | None
    drift: Record | None
    latest: Record  # which publication readers get now

    @classmethod
    def of(cls, home: Home, folder: RunFolder, evaluation: Path) -> "Records":
        """Read the run in `folder`, measured as the record `evaluation` says."""
        plan = read_record(folder.plan)
        return cls(
            home,
            folder,
            plan,
            read_record(folder.record("trained")),
            read_metrics(folder.metrics),
            read_record(evaluation),
            _optional(folder.record("gate")),
            _optional(folder.record("registration")),
            _optional(folder.record("drift")),
            latest_of(home.features, plan["spec"]["dataset"]["name"]),
        )

    @cached_property
    def snapshot(self) -> Snapshot:
        """What the model was trained on."""
        return open_snapshot(self.folder.snapshot)

    @property
    def contract(self) -> Contract:
        """What the data had to look like."""
        return self.snapshot.contract

    @property
    def profile(self) -> Profile:
        """What the data look like."""
        return self.snapshot.profile

    @cached_property
    def publication(self) -> Record | None:
        """The features that this run's registration led to: its own, or the champion's."""
        version = (
            self.registration["encoder"]["version"]
            if self.registration is not None
            else (self.latest["champion"] or {}).get("model_version")
        )
        publication = self.latest["versions"].get(str(version))
        if publication is None:
            return None
        name = self.snapshot.name
        path = (
            self.home.features
            / name
            / f"model_version=v{version}"
            / f"publication={publication}"
        )
        place = place_of(path)
        manifest = read_manifest(place, format=FEATURES, version=FEATURES_VERSION)
        return {
            "id": publication,
            "path": str(place),
            "data": str(place / "data"),
            "model_version": version,
            "rows": manifest["rows"],
            "columns": manifest["columns"],
            "latents": manifest["latents"],
            "bytes": sum(part["bytes"] for part in manifest["parts"]),
        }

    @property
    def strengths(self) -> list[float]:
        """How much each latent says: its KL, or its activity where the KL is not a sum."""
        kl: list[float | None] = self.evaluation["kl_per_latent"]
        found = [value for value in kl if value is not None and math.isfinite(value)]
        return found if len(found) == len(kl) else list(self.evaluation["activity"])

    @property
    def strength_name(self) -> str:
        """What `strengths` are."""
        return (
            "KL in nats" if self.strengths == self.evaluation["kl_per_latent"] else "activity"
        )

    @property
    def aliases(self) -> list[str]:
        """The version's aliases; who is champion is asked of what readers get now."""
        if self.registration is None:
            return []
        kept = [alias for alias in self.registration["aliases"] if alias != "champion"]
        champion = (self.latest["champion"] or {}).get("model_version")
        return ["champion", *kept] if champion == self.registration["version"] else kept

    def digest(self) -> str:
        """What identifies everything that a report is drawn from."""
        model = self.folder.model / "SHA256SUMS"
        return digest_of(
            {
                "plan": self.plan,
                "trained": self.trained,
                "metrics": self.metrics,
                "evaluation": self.evaluation,
                "gate": self.gate,
                "registration": self.registration,
                "drift": self.drift,
                "latest": self.latest,
                "model": file_digest(model),
            }
        )


def newest_run(home: Home, name: str) -> tuple[RunFolder, Path]:
    """The run of data set `name` that was measured last, and the record that says so.

    Raises:
        NotFoundError: there is none.
    """
    bring(home.runs, "*/plan.json", "*/evaluation-*.json")
    measured: dict[str, list[tuple[int, RunFolder, Path]]] = {}
    for plan in sorted(home.runs.glob("*/plan.json")):
        folder = RunFolder(plan.parent)
        dataset = read_record(plan)["spec"]["dataset"]["name"]
        for record in sorted(folder.path.glob("evaluation-*.json")):
            time_ms = read_record(record)["time_ms"]
            measured.setdefault(dataset, []).append((time_ms, folder, record))
    if name not in measured:
        raise NotFoundError(
            f"no run of {name!r} has been trained and measured{near(name, sorted(measured))}"
        )
    _, folder, record = max(measured[name], key=lambda run: run[0])
    bring_run(folder)
    return folder, record


def _optional(path: Path) -> Record | None:
    return read_record(path) if path.exists() else None
