"""The report's charts and pictures as files: what other pages show of a run."""

import base64
from collections.abc import Mapping

from flows.reporting.charts import Axis, Chart, Curve, number, steps
from flows.reporting.imagery import Imagery
from flows.reporting.marginal import k_histogram, row_histogram
from flows.reporting.records import Records
from flows.reporting.sections import latent_bars, training_charts

COLORS: Mapping[str, str] = {"t0": "#2b6cb0", "t1": "#c2601b", "t2": "#2f855a", "t7": "#6b7280"}
TRAINING = ("elbo", "kl", "gradient-norm")


def charts(records: Records) -> dict[str, Chart]:
    """Every chart of the report, by the name of its file."""
    found = dict(zip(TRAINING, training_charts(records), strict=False))
    return found | {
        "latents": _latents(records),
        "log-marginal": row_histogram(records),
        "pareto-k": k_histogram(records),
    }


def _latents(records: Records) -> Chart:
    bars = latent_bars(records)
    top = bars[0].strength
    return Chart(
        f"{records.strength_name} of each latent",
        f"{records.strength_name} of {len(bars)} latents, largest {number(top)}",
        "latents, largest first",
        (Curve("latents", "t0", steps([bar.height / 100 for bar in bars]), area=True),),
        [],
        Axis(0.0, top or 1.0).ticks(),
    )


def pictures(imagery: Imagery | None) -> dict[str, bytes]:
    """Samples from the prior and traversals as PNG files; none where rows are no pictures."""
    if imagery is None:
        return {}
    named = {f"samples-{k}.png": sheet for k, sheet in enumerate(imagery.samples)} | {
        f"latent-{one.latent:03d}.png": one.strip for one in imagery.traversals
    }
    return {
        name: base64.b64decode(picture.uri.partition(",")[2]) for name, picture in named.items()
    }
